"""Which results are still what a run would make: by what they were made from, not by time.

A job records beside its outputs (see `zipquant.jobs.integrity`) the content of all its inputs, its
parameters, and the versions of the libraries that its numbers depend on. The start of a run
compares that with what the job would get now, and runs it again where something differs. So nothing
depends on the time of a file, on how the results folder is spelled, or on the notes that Snakemake
keeps in `.snakemake`: a file that was put in place with an old time is noticed, and one that was
touched makes nothing again.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from zipquant.errors import UserError, plain
from zipquant.jobs import content, integrity
from zipquant.jobs.content import Content

PACKAGES = {
    "av": "av",
    "kaldi_native_fbank": "kaldi-native-fbank",
    "librosa": "librosa",
    "numpy": "numpy",
    "onnxruntime": "onnxruntime",
    "scipy": "scipy",
    "soundfile": "soundfile",
    "soxr": "soxr",
    "torch": "torch",
}
"""The libraries that numbers depend on: what is imported, and the package that it is from."""

READS, ALSO = "reads", "also"
"""Parameters of rules: files outside the results folder that a job reads, although they are no
inputs that Snakemake would have to know; and files that it makes or not, by its settings and by
what comes of it, so that they are no outputs that Snakemake would insist on. What an earlier job
has left of them is deleted."""

LONG = 200
"""Characters of a parameter that are recorded as they are; of longer ones it is a hash."""

RESULTS = "<results>"
"""Stands for the results folder in recorded parameters: it may be moved."""


class Ledger:
    """Compares what results were made from with what a job would get now.

    Args:
        results: the results folder.
        libraries_are_known: whether jobs use the libraries of this process, asked when the first
            job is looked at.
    """

    def __init__(self, results: str, libraries_are_known: Callable[[], bool] = lambda: True):
        self._results = results
        self._libraries_are_known = libraries_are_known
        self._contents: dict[str, str | None] = {}
        self._warned: set[str] = set()
        self.seen = content.Seen(Path(results, integrity.SEEN))

    def why(self, job: Any) -> str:
        """Return why a job has to run again; nothing if its outputs are what it would make now.

        Args:
            job: has `output`, `input` and `params`, as Snakemake's jobs do.
        """
        for output in outputs(job):
            damage = integrity.problem(self._results, output, read=False)
            if damage == integrity.NO_RECORD and not os.path.lexists(output):
                continue  # Snakemake knows whether it is wanted
            if damage:
                self._tell(output, damage)
                return f"{output}: {damage}"
            origin = integrity.load(self._results, output).origin
            if origin.again or (difference := self._difference(job, origin)):
                return origin.again or difference
        return ""

    def _tell(self, output: str, damage: str) -> None:
        """Warn of a damaged output, once; not of what was deleted or not finished."""
        usual = damage == integrity.UNFINISHED or damage.endswith("it is missing")
        if not usual and output not in self._warned:
            self._warned.add(output)
            warning = f"{output} was damaged ({damage}) and will be made again"
            print(f"warning: {plain(warning)}", file=sys.stderr)

    def look(self, job: Any) -> None:
        """Look at the files outside that a job gets, so that it finds the same ones."""
        for path in job.input:
            if not integrity.is_inside(self._results, path):
                self.seen.look(os.path.relpath(path))

    def _difference(self, job: Any, origin: integrity.Origin) -> str:
        """Return the first thing that a job would get otherwise than an output's record says."""
        now = {name_of(self._results, path): path for path in inputs(self._results, job)}
        if gone := sorted(origin.inputs.keys() - now):
            return f"{gone[0]} is no input any more"
        for name, path in now.items():
            if name not in origin.inputs:
                return f"{name} is a new input"
            if self._content(name, path, origin.inputs[name]) != origin.inputs[name].sha256:
                return f"{name} has another content"
        described = settings(self._results, job.params)
        for name in sorted(described.keys() | origin.settings):
            old, new = origin.settings.get(name), described.get(name)
            if old != new:
                return f"{name} was {_short(old)}, is {_short(new)}"
        if self._libraries_are_known():
            for name, new in versions(job.input).items():
                if (old := origin.versions.get(name)) != new:
                    return f"{name} was {old}, is {new}"
        return ""

    def _content(self, name: str, path: str, known: Content) -> str | None:
        if integrity.is_inside(self._results, path):
            if path not in self._contents:
                try:
                    self._contents[path] = integrity.load(self._results, path).sha256
                except integrity.Broken:
                    self._contents[path] = None
            return self._contents[path]
        try:
            return self.seen.look(name, known).sha256
        except OSError:
            return None


def origin(results: str, job: Any) -> integrity.Origin:
    """Return what a job is about to make its outputs from.

    Raises:
        UserError: a file outside the results folder is not what the start of the run has seen.
    """
    seen = content.Seen(Path(results, integrity.SEEN))
    found = {}
    for path in inputs(results, job):
        name = name_of(results, path)
        if integrity.is_inside(results, path):
            found[name] = Content(0, integrity.load(results, path).sha256, "")
        elif os.path.isfile(path):
            found[name] = content.look(path, seen[name])
            planned = seen[name] if path in job.input else None
            if planned and planned.sha256 != found[name].sha256:
                raise UserError(changed(path, "this run has begun"))
        else:
            found[name] = Content(0, "", "")
    params = settings(results, getattr(job, "params", {}))
    return integrity.Origin(found, params, versions(job.input))


def check_unchanged(results: str, job: Any, before: integrity.Origin) -> None:
    """Check after a job that the files outside that it has read are those that it has begun with.

    Raises:
        UserError: one was written to while the job was at work.
    """
    for path in inputs(results, job):
        known = before.inputs[name_of(results, path)]
        if integrity.is_inside(results, path) or not known.sha256:
            continue
        if not os.path.exists(path) or content.look(path, known).sha256 != known.sha256:
            raise UserError(changed(path, "the job has begun"))


def changed(path: str, since: str) -> str:
    """Return the message of a file that is no longer what it was."""
    return (
        f"{path} has changed since {since}: leave it as it is while a run is at work, and run the "
        "same command again"
    )


def outputs(job: Any) -> list[str]:
    """Return what a job makes, also what Snakemake does not insist on."""
    return [*map(str, job.output), *map(str, getattr(job, "params", {}).get(ALSO, []))]


def split(job: Any) -> tuple[list[str], list[str]]:
    """Return those of a job's outputs that it has made, and those that it has not."""
    paths = outputs(job)
    made = [path for path in paths if path in job.output or os.path.exists(path)]
    return made, [path for path in paths if path not in made]


def inputs(results: str, job: Any) -> list[str]:
    """Return what a job reads and others, or the user, have made; each file once."""
    benchmarks = os.path.join(results, "benchmarks")
    found = [path for path in map(str, job.input) if not integrity.is_inside(benchmarks, path)]
    return list(dict.fromkeys([*found, *getattr(job, "params", {}).get(READS, [])]))


def name_of(results: str, path: str) -> str:
    """Return what a path is called in records, wherever the results folder lies."""
    if integrity.is_inside(results, path):
        return os.path.join(RESULTS, os.path.relpath(path, results))
    return os.path.relpath(path)


def settings(results: str, params: Mapping[str, Any]) -> dict[str, str]:
    """Return a job's parameters as they are recorded."""
    found = {}
    for name, value in params.items():
        if name not in (READS, ALSO):
            text = json.dumps(_movable(results, value), sort_keys=True, default=str)
            if len(text) > LONG:
                text = hashlib.sha256(text.encode()).hexdigest()
            found[name] = text
    return found


def versions(sources: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are there and that some sources import.

    Args:
        sources: the inputs of a job; what is no Python file is left out.
    """
    imported = set().union(*(_imports(str(path)) for path in sources if str(path).endswith(".py")))
    found = {PACKAGES[name]: _version(PACKAGES[name]) for name in sorted(imported & set(PACKAGES))}
    return {name: version for name, version in found.items() if version}


def install(ledger: Ledger) -> None:
    """Let a ledger answer what Snakemake asks its own notes and the times of files.

    Snakemake asks of each job whose inputs are made whether its parameters have changed; this
    answers for everything that a job depends on. The other questions get the same answer always.

    Raises:
        UserError: this Snakemake does not ask them.
    """
    from snakemake.jobs import Job
    from snakemake.persistence import PersistenceBase
    from snakemake.settings.enums import RerunTrigger
    from snakemake.workflow import Workflow

    async def no_time(job: Any) -> None:
        return None

    answers = {
        (PersistenceBase, "has_metadata"): lambda notes, job: True,
        (PersistenceBase, "has_outdated_metadata"): lambda notes, job: False,
        (PersistenceBase, "params_changed"): lambda notes, job, file=None: ledger.why(job),
        (PersistenceBase, "input_changed"): lambda notes, job, file=None: [],
        (PersistenceBase, "code_changed"): lambda notes, job, file=None: [],
        (Job, "output_mintime"): property(no_time),
        (Workflow, "rerun_triggers"): property(lambda workflow: RerunTrigger.all()),
        (Workflow, "log_provenance_info"): lambda workflow: None,  # advice on those notes
        (Job, "outputs_older_than_script_or_notebook"): _none,
    }
    for (owner, name), answer in answers.items():
        if not hasattr(owner, name):
            raise UserError(
                f"this version of Snakemake has no {owner.__name__}.{name}: install the version "
                "that envs/requirements.txt names"
            )
        setattr(owner, name, answer)


async def _none(job: Any):
    """Yield nothing."""
    for nothing in ():
        yield nothing


def _movable(results: str, value: Any) -> Any:
    """Return a parameter with paths into the results folder written without it."""
    if isinstance(value, str):
        if value == results or value.startswith(results + os.sep):
            return RESULTS + value[len(results) :]
        return value
    if isinstance(value, Mapping):
        return {str(key): _movable(results, part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_movable(results, part) for part in value]
    return value


@cache
def _imports(source: str) -> frozenset[str]:
    """Return the first names of what a Python file imports."""
    text = Path(source).read_text(encoding="utf-8", errors="replace")
    return frozenset(re.findall(r"^\s*(?:import|from) (\w+)", text, re.MULTILINE))


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _short(text: str | None) -> str:
    if text is None:
        return "not set"
    return "other" if len(text) == 64 else text
