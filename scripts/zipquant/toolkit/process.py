"""rknn-toolkit2 of some version, in a process and an environment of its own."""

import contextlib
import os
import subprocess
import sys
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import isolation
from zipquant.toolkit import environment, worker


class Toolkit:
    """A process with the toolkit in it. What it prints goes where this process prints.

    Args:
        version: of the toolkit; its environment is made where it is not there.

    Raises:
        UserError: there is no such version, or it cannot be installed or imported.
    """

    def __init__(self, version: str):
        self._process: subprocess.Popen | None = None
        folder = environment.ensure(version)
        self._pipe, theirs = Pipe()
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        sys.stdout.flush()
        sys.stderr.flush()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", worker.__file__, str(folder), str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
            )
        try:
            self._answer()
        except _StepFailed as error:
            self.close()
            raise UserError(
                f"rknn-toolkit2 {version} cannot be imported ({error}): delete {folder} and run "
                "the same command again"
            ) from None

    def __enter__(self) -> "Toolkit":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def new(self) -> "Rknn":
        """Make a new object of the toolkit."""
        return Rknn(self, self.call(0, worker.NEW))

    def call(
        self, number: int, step: str, *arguments: Any, folder: Path | None = None, **options: Any
    ) -> Any:
        """Do one step of an object in the toolkit's process; see `Rknn.run`."""
        given = worker.pack(list(arguments)), worker.pack(options)
        with contextlib.suppress(OSError):  # the process has ended, which the answer tells
            self._pipe.send((number, step, folder and str(folder), *given))
        return self._answer()

    def close(self) -> None:
        """End the process, and wait for its end: else its memory would not count as this one's."""
        if self._process:
            with contextlib.suppress(OSError):
                self._pipe.send(None)
            self._pipe.close()
            self._process.wait()
            self._process = None

    def _answer(self) -> Any:
        try:
            ending, result = self._pipe.recv()
        except (EOFError, OSError):
            code = self._process.wait()
            raise ToolkitError(f"rknn-toolkit2 {isolation.end_in_words(code)}") from None
        if ending == worker.NO_MEMORY:
            raise ToolkitError("rknn-toolkit2 ran out of memory")
        if ending == worker.FAILED:
            raise _StepFailed(*result)
        return worker.unpack(result)


class Rknn:
    """One `RKNN` object, which is in the toolkit's process.

    Args:
        toolkit: the process; it is kept as long as the object.
        number: of the object there.
    """

    def __init__(self, toolkit: Toolkit, number: int):
        self._toolkit = toolkit
        self._number = number

    def run(self, step: str, *arguments: Any, **options: Any) -> None:
        """Do one step of the toolkit, which reports failures by codes or exceptions.

        Args:
            step: the name of a method of `RKNN` that returns a code.
            arguments: of the method.
            options: of the method; and `folder`, the current directory of the step.

        Raises:
            ToolkitError: it failed.
        """
        try:
            code = self._toolkit.call(self._number, step, *arguments, **options)
        except _StepFailed as error:
            raise ToolkitError(f"rknn-toolkit2's {step} failed: {error}") from None
        if code != 0:
            raise ToolkitError(f"rknn-toolkit2's {step} failed; its last words are in the log")

    def get(self, step: str, *arguments: Any, **options: Any) -> Any:
        """Do one step of the toolkit, and return what it returns.

        Raises:
            UserError: it failed, or returned nothing.
        """
        try:
            result = self._toolkit.call(self._number, step, *arguments, **options)
        except _StepFailed as error:
            raise UserError(f"rknn-toolkit2's {step} failed: {error}") from None
        if result is None:
            raise UserError(f"rknn-toolkit2's {step} failed; its last words are in the log")
        return result

    def release(self) -> None:
        """Give back its memory."""
        self._toolkit.call(self._number, "release")


class _StepFailed(Exception):
    """The toolkit has raised something."""

    def __init__(self, name: str, text: str):
        # The text is the toolkit's own traceback, with the cause in its last line.
        super().__init__((text.strip().splitlines()[-1:] or [name])[0].strip())
