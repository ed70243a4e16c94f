"""What Snakemake's benchmark files say that jobs took."""

import csv
import math
import sys
from pathlib import Path

from zipquant.errors import plain

COLUMNS = {"s": "seconds", "cpu_time": "cpu_seconds", "max_rss": "memory_mb"}
"""Snakemake's columns that are read: elapsed time, time of all cores, and the largest resident
memory of the job's processes together, in MB as Snakemake counts it (2**20 bytes)."""


def read(path: str | Path) -> list[dict[str, float]]:
    """Return the rows of a benchmark file, by the names in `COLUMNS`; NaN is what was not measured.

    These files have no records, and nothing depends on them: a damaged one is warned of and left
    out.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, dialect="excel-tab"))
        if not rows:
            raise ValueError
        return [{name: _number(row[key]) for key, name in COLUMNS.items()} for row in rows]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        print(
            f"warning: {plain(str(path))} is no benchmark file of Snakemake's: what the job took "
            "is left out; delete the file and what the job has made to measure it again",
            file=sys.stderr,
        )
        return []


def _number(text: str) -> float:
    if text in ("-", "NA"):
        return math.nan
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError(text)
    return value
