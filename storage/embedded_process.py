# SPDX-License-Identifier: Apache-2.0
"""As whom a private Postgres runs, which of its processes there are, and how they are ended.

Owns what is asked of the operating system about them. When any of it is done is `storage.embedded`'s.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

STOP_TIMEOUT = 60.0
"""Seconds for a fast shutdown, which writes all that is in memory to the disk."""


class EmbeddedPostgresError(Exception):
    """The private server can't be initialised, started or stopped; the message says why and what to do."""


class Account(Struct, frozen=True):
    """Whom the server runs as: None for whoever we are."""

    uid: int | None
    gid: int | None
    reach: bool
    """Whether it needs the capability to pass directories that its user can't."""


def choose_account(cluster: Path, binaries: Path) -> Account:
    if os.geteuid() != 0:
        return Account(None, None, False)
    entry: pwd.struct_passwd | None = None
    with suppress(FileNotFoundError, KeyError):
        owner = cluster.stat().st_uid
        if owner != 0:
            entry = pwd.getpwuid(owner)
    for name in ("lares", "postgres", "nobody"):
        if entry is None:
            with suppress(KeyError):
                entry = pwd.getpwnam(name)
    if entry is None:
        raise EmbeddedPostgresError(
            "Postgres does not run as root, and there is no other user: create one named lares, or run as one"
        )
    reachable = all(
        _may_pass(path.resolve(), entry.pw_uid, entry.pw_gid)
        for path in (cluster.parent, binaries, binaries / "postgres")
    )
    return Account(entry.pw_uid, entry.pw_gid, not reachable)


def _may_pass(path: Path, uid: int, gid: int) -> bool:
    """Whether that user may enter (execute) a path and every directory above it, by their permission bits."""
    for place in (path, *path.parents):
        status = place.stat()
        shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
        if not (status.st_mode >> shift) & 0o1:
            return False
    return True


_PR_SET_PDEATHSIG, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 1, 8, 47, 2
_PR_CAPBSET_READ = 23
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS, _NO_SETUID_FIXUP = 27, 28, 4
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522


def become(account: Account, parent_death_signal: int | None) -> Callable[[], None]:
    """What a child does between fork and exec: take the account, and ask for a signal if we die.

    Everything that imports or allocates widely happens before the fork.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    has_prctl = hasattr(libc, "prctl")
    capability = 0
    if account.reach:
        available = [
            cap
            for cap in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE)
            if has_prctl and libc.prctl(_PR_CAPBSET_READ, cap, 0, 0, 0) == 1
        ]
        if not available:
            raise EmbeddedPostgresError(
                "Postgres runs as an unprivileged user, who can't reach data_dir or the program's files. Put both "
                "where every user may pass, or run the server as an unprivileged user itself."
            )
        capability = 1 << available[0]
    secure_bits = libc.prctl(_PR_GET_SECUREBITS, 0, 0, 0, 0) if capability else 0
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)(capability, capability, capability, 0, 0, 0)
    parent = os.getpid()

    def child() -> None:
        if account.uid is not None and account.gid is not None:
            if capability:
                libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
                # Or access(2), by which Postgres looks for its own programs, would leave the capability out. What else
                # the process then keeps of root's capabilities goes with `capset`.
                libc.prctl(_PR_SET_SECUREBITS, secure_bits | _NO_SETUID_FIXUP, 0, 0, 0)
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            if capability and (
                libc.capset(header, sets) != 0
                or libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability.bit_length() - 1, 0, 0) != 0
            ):
                os._exit(126)
        if parent_death_signal is not None and has_prctl:
            libc.prctl(_PR_SET_PDEATHSIG, parent_death_signal, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(126)
        os.umask(0o077)

    return child


def processes_in(directory: Path) -> set[int]:
    """Postgres processes whose working directory, which a server sets to its data, is `directory`."""
    status = directory.stat()
    found = set()
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            place = os.stat(f"/proc/{entry}/cwd")
            name = Path(f"/proc/{entry}/comm").read_text().strip()
            state = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:  # gone meanwhile, or another user's, which ours never is
            continue
        if (
            (place.st_dev, place.st_ino) == (status.st_dev, status.st_ino)
            and name == "postgres"
            and state != "Z"
        ):
            found.add(int(entry))
    return found


def kill(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def end(pid: int, ended: Callable[[], int | None]) -> None:
    """Fast shutdown, then an immediate one if that takes too long, then the axe; each safe for the data."""
    for number, patience in ((signal.SIGINT, STOP_TIMEOUT), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0)):
        if ended() is not None:
            return
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if ended() is not None:
                return
            time.sleep(0.01)
    raise EmbeddedPostgresError(f"Postgres (process {pid}) can't be stopped")
