"""Compare every file of a results folder with what its job has recorded, and delete damaged ones.

    python scripts/check_results.py results

The workflow compares what a job reads; this looks at the rest too, such as the report and the
bundle, before they are copied to a board or kept for long. What is damaged is named and deleted, so
that the command that made the results makes it again. What no job has made is named and left. Exit
code: 0 when nothing was found, 1 when something was, 2 for a wrong command line.
"""

import argparse
import sys
from pathlib import Path

from zipquant.errors import UserError, plain
from zipquant.jobs import integrity


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="name damaged files, delete nothing")
    parser.add_argument("results", help="the results folder")
    arguments = parser.parse_args()
    if not Path(arguments.results, integrity.RECORDS).is_dir():
        parser.error(f"{arguments.results} is not a results folder: it has no records")
    try:
        return check(arguments.results, arguments.keep)
    except (UserError, OSError) as error:
        print(f"error: {plain(str(error))}")
        return 1


def check(results: str, keep: bool) -> int:
    """Print what is wrong with a results folder, and return the exit code."""
    paths = list(integrity.recorded(results))
    damaged = 0
    for path in paths:
        reason = integrity.problem(results, path)
        # What was deleted already will be made by the next run, if it is still wanted.
        if not reason or (reason == integrity.UNFINISHED and not path.exists()):
            continue
        if reason.endswith(integrity.FOREIGN):  # all of its own files are intact
            continue
        damaged += 1
        message = f"{path}: {reason}" if keep else integrity.discard(results, path, reason)
        print(plain(message))
    foreign = list(integrity.unrecorded(results))
    for name in foreign:
        print(plain(f"{Path(results, name)}: {integrity.FOREIGN}; it is left alone"))
    print(
        f"{len(paths)} files and folders compared with their records, {damaged} damaged, "
        f"{len(foreign)} that no job has made"
    )
    return 1 if damaged or foreign else 0


if __name__ == "__main__":
    sys.exit(main())
