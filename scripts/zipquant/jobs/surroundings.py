"""What Snakemake needs of the account that it runs in, looked at before it ends in a traceback."""

import os
import tempfile

from zipquant.errors import UserError


def check() -> None:
    """Check that the folders that Snakemake writes to beside the project can be written to.

    Raises:
        UserError: the home folder's cache or the folder for temporary files cannot.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        os.makedirs(os.path.join(cache, "snakemake"), exist_ok=True)
        _write(cache)
    except OSError as error:
        raise UserError(
            f"cannot write to '{cache}' ({error.strerror}), where Snakemake keeps its cache: set "
            "HOME or XDG_CACHE_HOME to a folder that can be written to"
        ) from None
    for name in ("TMPDIR", "TEMP", "TMP"):
        folder = os.environ.get(name)
        if not folder or not os.path.isdir(folder):
            continue  # the next one is taken, and /tmp in the end
        try:
            _write(folder)
        except OSError as error:
            raise UserError(
                f"cannot write to '{folder}' ({error.strerror}), which {name} names for temporary "
                "files: set it to a folder that can be written to"
            ) from None


def _write(folder: str) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass
