# SPDX-License-Identifier: Apache-2.0
"""Child processes: starting them so that they die with us, ending them, and counting their CPU and memory.

What they run is the business of `cluster` and `servers`.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

UNPRIVILEGED = 65534
"""The uid and gid (`nobody`) Postgres runs as when we are root, which it refuses to be."""


class ProcessFailed(Exception):
    """A process we started ended or did not get ready; the message carries the tail of its log."""


class Child:
    """One started process, its output in a file, and the tree of processes below it."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        unprivileged: bool = False,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        """Start `arguments` with standard output and error going to `log`.

        `unprivileged` drops to `UNPRIVILEGED` if we are root. The child is in a session of its own, so that
        the terminal's Ctrl-C reaches only us and we end things in order.
        """
        self.name = Path(arguments[0]).name
        self.log = log
        self._stop_signal = stop_signal
        command = [*_leash(stop_signal, drop=unprivileged and os.geteuid() == 0), *arguments]
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=dict(os.environ, **(environment or {})),
                start_new_session=True,
            )
        self._process = psutil.Process(self._popen.pid)

    @property
    def pid(self) -> int:
        """Of the process itself; those below it have their own."""
        return self._popen.pid

    def wait_for_line(self, prefix: str, *, seconds: float) -> str:
        """The first line of the output that starts with `prefix`; raise `ProcessFailed` if none comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for line in self.log.read_text(errors="replace").splitlines():
                if line.startswith(prefix):
                    return line
            self.require_running()
            time.sleep(0.02)
        raise ProcessFailed(f"{self.name}: no line {prefix!r} within {seconds:g} s\n{self.tail()}")

    def wait(self) -> None:
        """Wait for the process to end by itself; raise `ProcessFailed` if it failed."""
        if (status := self._popen.wait()) != 0:
            raise ProcessFailed(f"{self.name} ended with status {status}\n{self.tail()}")

    def require_running(self) -> None:
        """Raise `ProcessFailed` if the process has ended."""
        if (status := self._popen.poll()) is not None:
            raise ProcessFailed(f"{self.name} ended with status {status}\n{self.tail()}")

    def tail(self, lines: int = 25) -> str:
        """The last `lines` of the output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def cpu_seconds(self) -> float:
        """User and system CPU of the whole tree since it started, processes that ended included.

        A parent's children-times take over what a reaped child had used, and that of the child's own reaped
        children, so the sum over the living never loses a back-end that came and went.
        """
        total = 0.0
        for process in self._tree():
            try:
                times = process.cpu_times()
                total += (
                    _own_cpu_seconds(process.pid, times.user + times.system)
                    + times.children_user
                    + times.children_system
                )
            except psutil.NoSuchProcess:
                continue
        return total

    def cpu_by_process(self) -> dict[int, float]:
        """User and system CPU of each process of the tree that lives now, by its id."""
        used: dict[int, float] = {}
        for process in self._tree():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[process.pid] = _own_cpu_seconds(process.pid, times.user + times.system)
        return used

    def resident_bytes(self) -> int:
        """Resident memory of the tree now."""
        total = 0
        for process in self._tree():
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def peak_resident_bytes(self) -> int:
        """The sum over the tree of each living process's highest resident memory (Linux: `VmHWM`)."""
        total = 0
        for process in self._tree():
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                continue
            total += next(
                (int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("VmHWM:")), 0
            )
        return total

    def stop(self, seconds: float = 15) -> None:
        """Ask the process to end, insist after `seconds`, and leave nothing of its tree behind."""
        tree = self._tree()
        if self._popen.poll() is None:
            self._popen.send_signal(self._stop_signal)
            try:
                self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
        for process in tree[1:]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return [self._process]


def _own_cpu_seconds(pid: int, user_and_system: float) -> float:
    """CPU of one process: Linux's clock for it counts nanoseconds where psutil counts 10 ms ticks."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return user_and_system


def _leash(stop_signal: signal.Signals, *, drop: bool) -> list[str]:
    """A `setpriv` prefix: the kernel sends the signal if we die without cleaning up, and root is dropped."""
    if (setpriv := shutil.which("setpriv")) is None:
        if drop:
            raise ProcessFailed("setpriv (package util-linux) is needed to start Postgres from a root shell")
        return []
    command = [setpriv, "--pdeathsig", stop_signal.name.removeprefix("SIG")]
    if drop:
        command += [f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--clear-groups"]
    return [*command, "--"]
