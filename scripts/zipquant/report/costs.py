"""What a run took: time and memory of each rule, from Snakemake's benchmark files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from zipquant.jobs import benchmarks


def collect(
    folder: str | Path, jobs: Sequence[str], flow: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
    """Add up the benchmark files of each rule.

    Args:
        folder: holds a file `<job>.tsv` for each job that has run; the first part of a job's name
            is its rule.
        jobs: the jobs that count; others in the folder are of earlier settings.
        flow: by rule, the rules whose files it takes, in the order in which data flow.

    Returns:
        By rule, in the order of `flow`: `jobs`; `seconds` and `cpu_seconds` of all of them;
        `longest`, the seconds of one job at most; `memory_mb` of one at most (None where they
        ended before Snakemake looked); and `after`, those of `flow` that are in the result.
    """
    rows = []
    for job in jobs:
        path = Path(folder) / f"{job}.tsv"
        if path.exists():
            rows += [{"rule": job.split("/")[0], **row} for row in benchmarks.read(path)]
    if not rows:
        return {}
    groups = {str(rule): group for rule, group in pd.DataFrame(rows).groupby("rule")}
    found = [rule for rule in flow if rule in groups]
    return {
        rule: {
            "jobs": len(groups[rule]),
            "seconds": round(float(groups[rule]["seconds"].sum()), 1),
            "longest": round(float(groups[rule]["seconds"].max()), 1),
            "cpu_seconds": round(float(groups[rule]["cpu_seconds"].sum()), 1),
            "memory_mb": _most(groups[rule]["memory_mb"]),
            "after": [before for before in flow[rule] if before in found],
        }
        for rule in found
    }


def _most(values: pd.Series) -> int | None:
    known = pd.to_numeric(values, errors="coerce").dropna()
    return round(float(known.max())) if len(known) else None
