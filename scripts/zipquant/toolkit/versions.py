"""Which versions of rknn-toolkit2 there are to build with, and which one fits a board.

Imported when the Snakefile is read and before anything is installed, so it needs nothing but the
standard library.
"""

import re

from zipquant.errors import UserError

VERSIONS = ("2.2.0", "2.3.2", "2.5.0")
"""The versions that Zipquant is tested with; older ones first."""

DEFAULT = "2.3.2"
"""The one that is used where the settings name none."""


def check(version: str) -> None:
    """Check that Zipquant knows a version of the toolkit.

    Raises:
        UserError: it does not, one line with those that it knows.
    """
    if version not in VERSIONS:
        raise UserError(unknown(version))


def unknown(version: object) -> str:
    """Return the message about a version that Zipquant does not know."""
    return f"unknown toolkit {version}: one of {', '.join(VERSIONS)}"


LITE_ON_PYPI = ("2.3.2", "2.5.0")
"""The versions of rknn-toolkit-lite2, for boards, that PyPI has; the others are in Rockchip's
repository of rknn-toolkit2."""


def lite(version: str) -> str:
    """Return what `pip install` takes on a board for the toolkit's small sister of a version.

    For a version that PyPI has not it is the name of the wheel for Python 3.10.
    """
    if version in LITE_ON_PYPI:
        return f"rknn-toolkit-lite2=={version}"
    return f"rknn_toolkit_lite2-{version}-cp310-cp310-linux_aarch64.whl"


def for_runtime(runtime: str) -> str:
    """Return the toolkit to build with for a board's runtime library, librknnrt.

    A model is meant for the runtime of its toolkit's version. What people report most is a runtime
    that is older: "Invalid RKNN model version", and crashes (airockchip/rknn-toolkit2 254, 281,
    506). So it is the newest toolkit that is not newer than the runtime.

    Args:
        runtime: its version, such as `2.3.0`, or as the board prints it: `2.3.0 (c949ad889d@...)`.

    Raises:
        UserError: it is no version, or older than every toolkit here.
    """
    found = re.match(r"[vV]?(\d+)\.(\d+)\.(\d+)(?![\d.])", runtime.strip())
    if not found:
        raise UserError(
            f"RUNTIME: '{runtime}' is no version of librknnrt; it looks like 2.3.2 (on the board: "
            'strings /usr/lib/librknnrt.so | grep -i "librknnrt version")'
        )
    has = tuple(map(int, found.groups()))
    fitting = [version for version in VERSIONS if tuple(map(int, version.split("."))) <= has]
    if not fitting:
        raise UserError(
            f"RUNTIME: librknnrt {'.'.join(found.groups())} is older than every toolkit here "
            f"({', '.join(VERSIONS)}): install a newer librknnrt on the board"
        )
    return fitting[-1]
