"""Compare every file of a results folder with what its job has recorded, and delete damaged ones.

    python scripts/check_results.py results

The workflow compares what a job reads; this looks at the rest too, such as the report and the
bundle, before they are copied to a board or kept for long. What is damaged is named and deleted, so
that the command that made the results makes it anew. Exit code: 0 when nothing was found, 1 when
something was, 2 for a wrong command line.
"""

import argparse
import sys
from pathlib import Path

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
    found = 0
    paths = list(integrity.recorded(arguments.results))
    for path in paths:
        # What is missing will be made by the next run, if it is still wanted.
        if path.exists() and (reason := integrity.problem(arguments.results, path)):
            found += 1
            if arguments.keep:
                print(f"{path}: {reason}")
            else:
                print(integrity.discard(arguments.results, path, reason))
    print(f"{len(paths)} files and folders compared with their records, {found} damaged")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
