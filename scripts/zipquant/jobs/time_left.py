"""How long a run still takes: from what its jobs took so far, here or in earlier runs."""

import csv
import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

LOOKED_AT = 20
"""Benchmark files of a rule that are read; a run may have thousands."""

LEAST_SAID = 60.0
"""Seconds from which a time is said of which a part is not known."""


class TimeLeft:
    """The jobs of a run, and what they took.

    A rule is expected to take what its jobs of this run took on average, else those of earlier
    runs. Of a rule that was never seen nothing is known, and nothing is guessed.
    """

    def __init__(self, jobs: Mapping[str, int], earlier: Mapping[str, float], cores: int):
        """Take how many jobs each rule has, what one took earlier in seconds, and the cores."""
        self._left = Counter(jobs)
        self._earlier = earlier
        self._cores = max(1, cores)
        self._running: dict[object, tuple[str, float]] = {}
        self._done: Counter[str] = Counter()
        self._took: defaultdict[str, float] = defaultdict(float)

    def expected(self, rule: str) -> float | None:
        """Return how many seconds a job of a rule is expected to take; None if nothing is known."""
        if self._done[rule]:
            return self._took[rule] / self._done[rule]
        return self._earlier.get(rule)

    def begin(self, job: object, rule: str, now: float) -> None:
        """Note that a job has begun, or begins again."""
        self._running[job] = (rule, now)

    def finish(self, job: object, now: float) -> None:
        """Note that a job is done."""
        if job in self._running:
            rule, begun = self._running.pop(job)
            self._took[rule] += now - begun
            self._done[rule] += 1
            self._left[rule] -= 1

    def in_words(self, now: float) -> str:
        """Return about how long the rest takes; empty if that is not known or no matter."""
        left = {rule: count for rule, count in self._left.items() if count > 0}
        known = {rule: seconds for rule in left if (seconds := self.expected(rule)) is not None}
        total = sum(known[rule] * left[rule] for rule in known)
        longest = max(known.values(), default=0.0)
        for rule, begun in self._running.values():
            total -= min(now - begun, known.get(rule, 0.0))
        # As many at once as there are cores and jobs; no job takes less than itself.
        seconds = total / min(self._cores, max(1, sum(left.values())))
        seconds = max(seconds, min(longest, total))
        if len(known) == len(left):
            return f"about {rounded(seconds)} left" if seconds >= 10 else ""
        return f"at least {rounded(seconds)} left" if seconds >= LEAST_SAID else ""


def rounded(seconds: float) -> str:
    """Return a time as coarse as an estimate of it is good for."""
    if seconds < 95:
        return f"{max(10, round(seconds, -1)):.0f} s"
    if seconds < 95 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def earlier(patterns: Mapping[str, str], folder: str | Path = ".") -> dict[str, float]:
    """Return what a job of each rule took in earlier runs, in seconds, where that is on record.

    Args:
        patterns: by rule, the path of its benchmark files, `*` for what differs; below `folder`.
        folder: where relative paths begin.
    """
    found = {}
    for rule, pattern in patterns.items():
        base = Path(pattern).anchor or folder
        paths = Path(base).glob(pattern.removeprefix(Path(pattern).anchor))
        times = list(_seconds(itertools.islice(paths, LOOKED_AT)))
        if times:
            found[rule] = statistics.fmean(times)
    return found


def _seconds(paths: Iterable[Path]) -> Iterable[float]:
    """Yield the times in some benchmark files; those that are damaged say nothing."""
    for path in paths:
        try:
            with open(path, encoding="utf-8", newline="") as file:
                yield from (float(row["s"]) for row in csv.DictReader(file, dialect="excel-tab"))
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            continue
