# Shared by all rules: the plan of the run, paths, resources, and what a rule depends on.
# Runs at every start, so it imports nothing heavy but the check of the model.

import os
import sys
import time
from functools import cache
from pathlib import Path

# The folder of this workflow, also where another one uses it as a module.
PROJECT = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
SCRIPTS = PROJECT / "scripts"
sys.path.insert(0, str(SCRIPTS))

from zipquant import config as configuration
from zipquant import plan
from zipquant.errors import UserError, plain
from zipquant.jobs import processes
from zipquant.model import look
from zipquant.toolkit import environment

STARTED = time.time()
FLOAT = "float"


wildcard_constraints:
    set="|".join(plan.SETS),
    shard=r"\d+",
    variant=r"(?!(?:float|rknn)/)[A-Za-z0-9][A-Za-z0-9_-]*",


def stop(error: UserError) -> None:
    """End with one plain message, before any job."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


try:
    SETTINGS = configuration.complete(config, workflow.configfiles, PROJECT)
    PLAN = plan.make(SETTINGS, PROJECT)
except UserError as error:
    stop(error)

VARIANTS = PLAN.variants
# The rules take the model's files as they were found.
config = {**SETTINGS, "model": PLAN.model}


# Of jobs that run in Apptainer; before the rules, which take it as they are read.
if config["container"]:

    container: config["container"]


def result(path: str) -> str:
    return f"{config['results']}/{path}"


def log_of(path: str) -> str:
    return result(f"logs/{path}.log")


def benchmark_of(path: str) -> str:
    return result(f"benchmarks/{path}.tsv")


def growing(first: int):
    """A resource of which a job that is tried again gets more: `first`, twice, three times as much.

    For `mem_mb` (MB) and `runtime` (minutes) of every rule that a cluster runs. `first` is for
    shards of about an hour and an encoder of 20 M parameters, with room to spare.
    """
    return lambda wildcards, attempt: first * attempt


@cache
def lib(script: str) -> list[str]:
    """A script and all library files it uses. Relative: moving the whole folder reruns nothing."""
    return [os.path.relpath(path) for path in plan.library_files(SCRIPTS, script)]


def templates(*patterns: str) -> list[str]:
    """Templates of pages; a changed one writes the page again."""
    folder = SCRIPTS / "zipquant/templates"
    paths = [path for pattern in patterns for path in folder.glob(f"{pattern}.j2")]
    return sorted(os.path.relpath(path) for path in paths)


def all_shards(name: str, pattern: str) -> list[str]:
    """The files of a set's shards; `pattern` has the fields `set` and `shard`."""
    shards = PLAN.shards_of(name)
    return [result(pattern.format(set=name, shard=shard)) for shard in shards]


def hold_results() -> None:
    """Keep a second run out of the results folder; the lock ends with this process."""
    global HELD
    try:
        HELD = processes.hold(config["results"])
    except UserError as error:
        stop(error)


def install_toolkit() -> None:
    """Make the toolkit's environment where it is not there, before a job needs it.

    Jobs that have an environment of their own make it there.
    """
    if workflow.deployment_settings.deployment_method:
        return
    try:
        environment.ensure(config["toolkit"])
    except UserError as error:
        stop(error)


if workflow.is_main_process:
    processes.announce()
    for note in PLAN.notes:
        print(f"note: {note}", file=sys.stderr)
    for warning in PLAN.warnings:
        print(f"warning: {plain(warning)}", file=sys.stderr)
