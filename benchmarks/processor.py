"""Processor time, which other work on the machine hardly changes."""

import psutil


def seconds() -> float:
    """Return what this process and all below it have used, those that have ended included.

    The toolkit runs in a process of its own, so that the time of this one alone says little.
    """
    this = psutil.Process()
    used = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(t.user + t.system + t.children_user + t.children_system for t in used)
