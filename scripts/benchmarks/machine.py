# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on: hardware, kernel and file system, as far as the system tells."""

import os
import platform
from pathlib import Path

import psutil


def describe(directory: Path) -> dict[str, str]:
    """The machine, and the file system that `directory` (with the databases) is on."""
    memory = psutil.virtual_memory().total / 1024**3
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count()
    return {
        "processor": _processor(),
        "cores": f"{usable} usable of {psutil.cpu_count()}",
        "memory": f"{memory:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "file system": _file_system(directory),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _file_system(directory: Path) -> str:
    resolved = directory.resolve()
    mounts = [
        mount for mount in psutil.disk_partitions(all=True) if resolved.is_relative_to(mount.mountpoint)
    ]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype if mounts else "unknown"
