"""What a run took: time and memory of each rule, from Snakemake's benchmark files."""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

import pandas as pd

from zipquant.jobs import benchmarks


@dataclass(frozen=True)
class Benchmarks:
    """Where Snakemake leaves what jobs took.

    Attributes:
        patterns: by rule, in the order of the report, the path of its jobs' files, with wildcards
            such as `{shard}`.
        wildcards: the values of each wildcard in this run. Files of others are of earlier settings,
            and rules with other wildcards do not end in the report.
    """

    patterns: Mapping[str, str]
    wildcards: Mapping[str, Sequence[str]]


def collect(places: Benchmarks) -> dict[str, dict[str, Any]]:
    """Add up the benchmark files of each rule.

    Returns:
        By rule, without those that have none: `jobs`; `seconds` and `cpu_seconds` of all of them;
        `longest`, the seconds of one job at most; and `memory_mb` of one at most (None where they
        ended before Snakemake looked).
    """
    found = {}
    for rule, pattern in places.patterns.items():
        paths = list(filter(os.path.exists, _files(pattern, places.wildcards)))
        rows = pd.DataFrame(row for path in paths for row in benchmarks.read(path))
        if not len(rows):
            continue
        found[rule] = {
            "jobs": len(rows),
            "seconds": round(float(rows["seconds"].sum()), 1),
            "longest": round(float(rows["seconds"].max()), 1),
            "cpu_seconds": round(float(rows["cpu_seconds"].sum()), 1),
            "memory_mb": _most(rows["memory_mb"]),
        }
    return found


def _files(pattern: str, wildcards: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the paths of a pattern; none if it has a wildcard without values."""
    names = [name for _, name, _, _ in Formatter().parse(pattern) if name]
    if not set(names) <= set(wildcards):
        return []
    values = itertools.product(*(wildcards[name] for name in names))
    return [pattern.format(**dict(zip(names, found, strict=True))) for found in values]


def _most(values: pd.Series) -> int | None:
    known = pd.to_numeric(values, errors="coerce").dropna()
    return round(float(known.max())) if len(known) else None
