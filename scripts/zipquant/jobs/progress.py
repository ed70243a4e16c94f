"""A line now and then that says how far a long job is."""

import os
import sys
import time

CONSOLE = "ZIPQUANT_CONSOLE"
"""Environment variable: number of an open file that shows lines also to whoever is watching, and
after a colon the name of the job."""


class Progress:
    """Prints done, total, rate and time left to standard error, at most every few seconds.

    While it goes on, and where there is a console (see `CONSOLE`), there as well.

    Args:
        unit: what is counted, in the plural.
        total: how many there are.
        every: seconds between two lines.
    """

    def __init__(self, unit: str, total: int, every: float = 20.0):
        self._unit, self._total, self._every = unit, total, every
        self._done = 0
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count some more; a line that is due ends its first part with `note`."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= self._every or self._done == self._total:
            self._last = now
            rate = self._done / max(now - self._start, 1e-9)
            left = (self._total - self._done) / rate
            line = (
                f"{self._done} of {self._total} {self._unit}{note}, {rate:.1f} a second, "
                f"{left:.0f} s left"
            )
            print(line, file=sys.stderr, flush=True)
            if CONSOLE in os.environ and left:
                file, job = os.environ[CONSOLE].split(":", 1)
                os.write(int(file), f"{job}: {line}\n".encode())
