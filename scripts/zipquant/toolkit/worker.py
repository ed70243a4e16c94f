"""The process that runs rknn-toolkit2, in an environment of its own. Started by `process`.

    python -P worker.py ENVIRONMENT DESCRIPTOR

It imports nothing of Zipquant: only the toolkit, NumPy, and the standard library. It gets steps
through a pipe, each a method of an `RKNN` object, and answers with what that returns or raises.
Arrays pass as bytes, since the two sides may have other versions of NumPy.
"""

import contextlib
import ctypes
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

LOG_LEVEL = "RKNN_LOG_LEVEL"
"""Environment variable that sets how much the toolkit's C code prints."""

NEW = "__new__"
"""The step that makes an object; it returns the object's number."""

FAILED, NO_MEMORY, DONE = "failed", "no memory", "done"
"""How a step has ended: with an error's name and text, without memory, or with a result."""

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: which signal a process gets when its parent dies."""


def pack(value: Any) -> Any:
    """Return a value with its arrays, also in lists and dicts, as their type, shape and bytes."""
    if isinstance(value, np.ndarray):
        return ("array", value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, list):
        return [pack(part) for part in value]
    if isinstance(value, dict):
        return {key: pack(part) for key, part in value.items()}
    return value


def unpack(value: Any) -> Any:
    """Return what `pack` was given."""
    if isinstance(value, tuple) and value[:1] == ("array",):
        _, dtype, shape, content = value
        return np.frombuffer(content, dtype).reshape(shape).copy()
    if isinstance(value, list):
        return [unpack(part) for part in value]
    if isinstance(value, dict):
        return {key: unpack(part) for key, part in value.items()}
    return value


def serve(pipe: Connection, make: Any) -> None:
    """Do the steps that come through a pipe, until None comes, or its other end is closed.

    Args:
        pipe: gets (object, step, folder, arguments, options), and sends how it has ended, and with
            what.
        make: returns a new object of the toolkit.
    """
    objects: dict[int, Any] = {}
    with contextlib.suppress(EOFError):
        while request := pipe.recv():
            number, step, folder, arguments, options = request
            if LOG_LEVEL in os.environ:
                # An earlier step has taken it from the C library's environment, where the compiler
                # looks.
                os.environ[LOG_LEVEL] = os.environ[LOG_LEVEL]
            try:
                if step == NEW:
                    objects[number := len(objects)] = make()
                    result = number
                else:
                    call = getattr(objects[number], step)
                    # The toolkit writes some files into the current directory.
                    with contextlib.chdir(folder or os.curdir):
                        result = call(*unpack(arguments), **unpack(options))
                answer = DONE, pack(result)
            except MemoryError:
                traceback.print_exc()
                answer = NO_MEMORY, None
            except Exception as error:
                answer = FAILED, (type(error).__name__, str(error))
            sys.stdout.flush()
            sys.stderr.flush()
            pipe.send(answer)


def main(environment: str, descriptor: str) -> None:
    """Serve with the toolkit of an environment."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that has started it decides
    pipe = Connection(int(descriptor))
    try:
        import rknn

        # A package without an __init__ takes in all folders of its name, another version's too.
        rknn.__path__ = [os.path.join(environment, "rknn")]
        from rknn.api import RKNN
    except Exception as error:
        traceback.print_exc()
        pipe.send((FAILED, (type(error).__name__, str(error))))
        return
    pipe.send((DONE, None))
    serve(pipe, lambda: RKNN(verbose=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
