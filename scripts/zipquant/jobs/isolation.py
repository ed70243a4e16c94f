"""Calling code that may abort the whole process, in a process of its own."""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import processes


def call(function: Callable[..., Any], **arguments) -> Any:
    """Call a function in a child process, and return what it returns, or raise what it raises.

    The child prints where this process does. Its memory is given back at its end.

    Raises:
        ToolkitError: the child was killed or has left without a result: the C code in it has
            aborted, or the machine has no memory left for it.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    child = context.Process(target=_child, args=(sender, function, arguments))
    child.start()
    sender.close()  # else the end of the child would not be seen
    try:
        error, value = receiver.recv()
    except EOFError:
        child.join()
        raise ToolkitError(f"rknn-toolkit2 {_end(child.exitcode)}") from None
    child.join()
    if error is not None:
        raise error
    return value


def _child(sender: Connection, function: Callable[..., Any], arguments: dict) -> None:
    processes.end_with_parent()
    try:
        result = None, function(**arguments)
    except UserError as error:
        result = error, None
    except MemoryError:
        traceback.print_exc()
        result = ToolkitError("rknn-toolkit2 ran out of memory"), None
    except Exception as error:
        traceback.print_exc()  # the parent's own would not show where it happened
        result = RuntimeError(repr(error)), None
    sender.send(result)


def _end(code: int) -> str:
    """Return in words how a process has ended without a result."""
    if code >= 0:
        return f"ended the process with exit code {code}; its last words are in the log"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "was killed by SIGKILL: most likely the machine has too little memory for this build"
    return f"aborted the process ({name}); its last words are in the log"
