"""The one exception that is meant for the user, and a mistake that many files share."""

from pathlib import Path


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, in which file, and what to do.

    Every entry point prints it as one plain line, without a traceback.
    """


class ToolkitError(UserError):
    """rknn-toolkit2 failed at something that was right to ask: with other settings it may not."""


def is_lfs_pointer(path: str | Path) -> bool:
    """Return whether a file is what Git leaves in place of a large one until `git lfs pull`."""
    with open(path, "rb") as file:
        return file.read(64).startswith(b"version https://git-lfs")
