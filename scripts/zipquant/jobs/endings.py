"""How a job ends: its exit code says whether another try may help.

The code also stands in the job's log, since a cluster reports no more than that a job has failed.
"""

import re
from enum import IntEnum
from pathlib import Path


class Ending(IntEnum):
    """Exit code of a job."""

    DONE = 0
    FAULT = 1
    """A fault of Zipquant or of the machine."""
    FINAL = 2
    """Another try cannot help: an error in what the user gave, a full disk, or an interruption."""
    LIMIT = 3
    """The job took more memory or time than it may."""
    KILLED = 4
    """A signal ended the job."""


def line(ending: Ending) -> str:
    """Return the last line of a job's log."""
    return f"exit code: {ending.value} ({ending.name.lower()})"


def of_log(log: Path) -> Ending | None:
    """Return how the job of a log has ended; None where the log does not say."""
    codes = re.findall(r"^exit code: (\d)", log.read_text(errors="replace"), re.MULTILINE)
    return Ending(int(codes[-1])) if codes else None
