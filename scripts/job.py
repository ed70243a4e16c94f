"""What all entry scripts share: log file, plain errors, and a child process for the work."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from zipquant.errors import UserError
from zipquant.progress import CONSOLE

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: which signal a process gets when its parent dies."""

KILLED = "error: the job was killed by "
FAULT = "error: this is a fault of Zipquant, or the machine's"
"""How the errors begin that another try might mend; all others tell of what the user gave."""


def run(log: Sequence[str], function: Callable[..., None], **arguments) -> None:
    """Call a library function in a child process whose whole output goes to the rule's log.

    The child keeps the toolkit's and onnxruntime's C code, which prints what it likes and may
    abort, away from the job: a dead child becomes a plain error. A `UserError` is written as one
    line that begins with `error:`; the Snakefile's `onerror` shows those at the end of a run.
    """
    with open(log[0], "wb", buffering=0) as file:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            # Long jobs tell on the console how far they are; the rest is for the log.
            job = os.path.relpath(os.path.splitext(log[0])[0]).split("logs/")[-1]
            os.environ[CONSOLE] = f"{os.dup(2)}:{job}"
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os._exit(_call(function, arguments))
        _, status, used = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            name = signal.Signals(-code).name
            hint = ": most likely out of memory" if name == "SIGKILL" else ""
            file.write(f"{KILLED}{name}{hint}; see {log[0]}\n".encode())
        file.write(f"peak memory: {used.ru_maxrss / 1024:.0f} MB\n".encode())
    sys.exit(0 if code == 0 else 1)


def _call(function: Callable[..., None], arguments: dict) -> int:
    try:
        function(**arguments)
        code = 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except BaseException:  # the child must never go on as if it were the job
        traceback.print_exc()
        print(f"{FAULT}; please report the log above", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
