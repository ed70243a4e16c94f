"""Calling code that may abort the whole process, in a process of its own."""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import processes

READ_BYTES = 1 << 20
"""What is read of a child's output at once."""


def call(function: Callable[..., Any], **arguments) -> Any:
    """Call a function in a child process, and return what it returns, or raise what it raises.

    The child prints where this process does. Its memory is given back at its end.

    Raises:
        ToolkitError: the child was killed or has left without a result: the C code in it has
            aborted, or the machine has no memory left for it.
    """
    return _call(function, arguments)


def overhear(
    hear: Callable[[bytes], None],
    environment: Mapping[str, str],
    function: Callable[..., Any],
    **arguments,
) -> Any:
    """Call a function as `call` does, and take all that the child prints, C code included.

    Args:
        hear: gets what the child writes to its standard output, block by block, in a thread. What
            it raises ends the child, and is raised here.
        environment: variables that the child has beside those of this process.
        function: is called in the child.
        arguments: of the function.

    Raises:
        ToolkitError: see `call`.
    """
    return _call(function, arguments, hear, environment)


def _call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    hear: Callable[[bytes], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Any:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    output = _Output(hear) if hear else None
    sys.stdout.flush()
    sys.stderr.flush()
    child = context.Process(
        target=_child, args=(sender, function, arguments, environment or {}, output)
    )
    child.start()
    sender.close()  # else the end of the child would not be seen
    if output:
        output.listen(child.pid)
    try:
        error, value = receiver.recv()
    except EOFError:
        child.join()
        error = ToolkitError(f"rknn-toolkit2 {end_in_words(child.exitcode)}")
    child.join()
    if output:
        output.end()
    if error is not None:
        raise error from None
    return value


class _Output:
    """The standard output of a child, which a thread of this process reads."""

    def __init__(self, hear: Callable[[bytes], None]):
        self._hear = hear
        self._reading, self._writing = os.pipe()
        with contextlib.suppress(OSError):  # a limit of the machine
            fcntl.fcntl(self._writing, fcntl.F_SETPIPE_SZ, READ_BYTES)
        self._error: Exception | None = None

    def become(self) -> None:
        """In the child: write there from now on."""
        os.close(self._reading)
        os.dup2(self._writing, 1)
        os.close(self._writing)

    def listen(self, child: int) -> None:
        os.close(self._writing)
        self._thread = threading.Thread(target=self._listen, args=(child,))
        self._thread.start()

    def end(self) -> None:
        """Wait until all is read, and raise what `hear` has raised."""
        self._thread.join()
        if self._error:
            raise self._error

    def _listen(self, child: int) -> None:
        with open(self._reading, "rb", buffering=0) as file:
            while block := file.read(READ_BYTES):
                if self._error:
                    continue  # to its end: a full pipe would keep the child from ending
                try:
                    self._hear(block)
                except Exception as error:
                    self._error = error
                    processes.kill_tree(child)


def _child(
    sender: Connection,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    environment: Mapping[str, str],
    output: _Output | None,
) -> None:
    processes.end_with_parent()
    os.environ.update(environment)
    if output:
        output.become()
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


def end_in_words(code: int) -> str:
    """Return in words how a process has ended without a result."""
    if code >= 0:
        return f"ended the process with exit code {code}; its last words are in the log"
    name = signal.Signals(-code).name
    if name == "SIGKILL":
        return "was killed by SIGKILL: most likely the machine has too little memory for this build"
    return f"aborted the process ({name}); its last words are in the log"
