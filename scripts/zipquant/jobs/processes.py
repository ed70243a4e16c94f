"""Processes of a run: one for a results folder, its jobs that end with it, and what they take."""

import contextlib
import ctypes
import fcntl
import os
import signal
from pathlib import Path
from typing import IO

import psutil

from zipquant.errors import UserError

RUN = "ZIPQUANT_RUN"
"""Environment variable that names the process of the run, for its jobs."""


PR_SET_PDEATHSIG = 1
"""linux/prctl.h: which signal a process gets when its parent dies."""

LOCK = ".lock"
"""The file, in a folder, that whoever works in the folder holds a lock of."""


def announce() -> None:
    """Let the jobs that this process will start know that they belong to it; see `of_run`."""
    os.environ[RUN] = f"{_machine()} {os.getpid()} {psutil.Process().create_time()}"


def of_run() -> list[int]:
    """Open what a job must not outlive: the process that started it, and that of the run.

    Returns:
        Descriptors that become readable when the process ends (pidfd_open, since Linux 5.3). That
        of the run is among them on its own machine alone; jobs of a cluster live on without it.

    Raises:
        ProcessLookupError: one of them has ended already.
    """
    found = [os.pidfd_open(os.getppid())]
    machine, pid, created = (*os.environ.get(RUN, "").rsplit(" ", 2), "", "")[:3]
    if machine == _machine():
        found.append(os.pidfd_open(int(pid)))
        if psutil.Process(int(pid)).create_time() != float(created):
            raise ProcessLookupError("another process has its number now")
    return found


def end_with_parent() -> None:
    """Let this process be killed when the one that has started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def memory_mb(pid: int) -> float:
    """Return the resident memory of a process and all that it has started, in MB."""
    total = 0
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total / 2**20


def kill_tree(pid: int) -> None:
    """End a process and all that it has started, at once."""
    for process in _tree(pid):
        with contextlib.suppress(psutil.Error):
            process.kill()


def hold(folder: str | Path) -> IO | None:
    """Keep a folder for this process alone, until it ends, however it ends.

    Returns:
        The open lock file, which has to be kept; None where the file system has no locks.

    Raises:
        UserError: another process holds it, or it cannot be written to.
    """
    path = Path(folder, LOCK)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link is not followed: what it leads to would be overwritten.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
    except OSError as error:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link: delete it, and run the same command again"
            ) from None
        raise UserError(
            f"cannot write to the results folder '{folder}' ({error.strerror}): make it writable, "
            "or set results to another folder"
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise UserError(
            f"another run (process {file.read().strip() or 'unknown'}) is at work in '{folder}': "
            "wait for it, or end it; what it has finished is kept"
        ) from None
    except OSError:
        file.close()
        return None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _machine() -> str:
    """Name the machine, or the container, in which a process number means something."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
