"""The one exception that is meant for the user, and a mistake that many files share."""

import re
from pathlib import Path
from typing import Any

UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but for tab and line feed, what turns the direction of text, and bytes of file
names that are no UTF-8."""


def plain(text: str) -> str:
    """Return a text with its control characters written out, such as `\\x1b` for an escape.

    Names and texts of files come from anywhere: written raw, they could clear a terminal or forge
    lines on it.
    """
    return UNPRINTABLE.sub(lambda found: _written_out(ord(found[0])), text)


def printable(value: Any) -> Any:
    """Return a value as a page or a table may hold it: see `plain`; what is no text as it is."""
    return type(value)(plain(value)) if isinstance(value, str) else value


def _written_out(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # as os.fsdecode keeps a byte that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class UserError(Exception):
    """Something the user can fix: the message says what is wrong, in which file, and what to do.

    Every entry point prints it as one plain line, without a traceback; see `plain`.
    """

    def __init__(self, message: object = ""):
        super().__init__(plain(str(message)))


class ToolkitError(UserError):
    """rknn-toolkit2 failed at something that was right to ask: with other settings it may not."""


def is_lfs_pointer(path: str | Path) -> bool:
    """Return whether a file is what Git leaves in place of a large one until `git lfs pull`."""
    with open(path, "rb") as file:
        return file.read(64).startswith(b"version https://git-lfs")
