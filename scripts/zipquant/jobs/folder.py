"""The results folder: where it may be, and what may be in it."""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from zipquant.errors import UserError
from zipquant.jobs import integrity

SOURCES = ("scripts", "rules", "envs", "profiles", "docs", "tests", "benchmarks")
"""Folders of the workflow that no results go to, beside those that begin with a dot."""

NAME_BYTES, PATH_BYTES = 255, 4095
"""linux/limits.h: the longest name of a file, and the longest path."""

DEEPEST = 300
"""Bytes that the longest path inside a results folder may take."""

NAMED = 5
"""Files that are named where there may be many."""


def normal(given: str) -> str:
    """Return one spelling of a results folder, for all that mean the same folder.

    `~` is the home folder. Relative to the working directory for what lies in it, else absolute.

    Raises:
        UserError: no folder can be there.
    """
    path = os.path.expanduser(given)
    if re.match(r"~|(.*/)?\$\w", path):
        raise UserError(
            f"config: results: '{given}' is not expanded: write the folder's path without ~user "
            "and variables"
        )
    path = os.path.realpath(path)
    if any(len(os.fsencode(name)) > NAME_BYTES for name in path.split(os.sep)):
        raise UserError(
            f"config: results: a name in '{given[:60]}...' has more than {NAME_BYTES} bytes; take "
            "a shorter one"
        )
    if len(os.fsencode(path)) > PATH_BYTES - DEEPEST:
        raise UserError(
            f"config: results: '{given[:60]}...' is too long a path; take a shorter one"
        )
    there = Path(path)
    while not os.path.lexists(there):
        there = there.parent
    if not there.is_dir():
        raise UserError(
            f"config: results: {there} is a file and no folder; set results to a folder"
        )
    return os.path.relpath(path) if integrity.is_inside(os.getcwd(), path) else path


def of_project(results: str, project: str | Path) -> str:
    """Return the folder of the workflow's own that a results folder is or lies in, or nothing."""
    relative = os.path.relpath(os.path.realpath(results), os.path.realpath(project))
    first = relative.split(os.sep)[0]
    own = first in SOURCES or (first.startswith(".") and first not in (os.curdir, os.pardir))
    return first if own else ""


def check_is_ours(results: str, products: Iterable[str], is_product: Callable[[str], bool]) -> None:
    """Check that nothing in a results folder is in the way that no job has made.

    Args:
        results: the results folder, as `normal` returns it.
        products: patterns of all files that a run may write.
        is_product: whether a path is one of them.

    Raises:
        UserError: something is, some of it is named; or a result is a link to what is not there.
    """
    heads = {os.path.relpath(path, results).split(os.sep)[0] for path in map(str, products)}
    _check_links(results, heads)
    found = []
    for name in integrity.unrecorded(results, heads):
        # Of a folder that a job makes, all that is in it is deleted.
        places = [Path(results, name), *Path(results, name).parents]
        if any(is_product(str(place)) for place in places):
            found.append(name)
    if found:
        raise UserError(
            f"the results folder '{results}' has files that no job of Zipquant has made and that a "
            f"run would overwrite or delete: {some(found)}. Move them "
            "elsewhere, or set results to another folder"
        )


def of_other_settings(results: str, wanted: Iterable[str]) -> list[str]:
    """Return what jobs have made in a results folder and a run does not use.

    Args:
        results: the results folder, as `normal` returns it.
        wanted: all that the jobs of the run make.

    Returns:
        Files and folders, by their path in the results folder; of a folder in which nothing is
        wanted the folder alone.
    """
    names = {os.path.relpath(path, results) for path in wanted}
    used = {str(parent) for name in names for parent in Path(name).parents}
    found = set()
    for path in integrity.recorded(results):
        name = os.path.relpath(path, results)
        if name in names or not os.path.lexists(path):
            continue
        places = [*reversed(Path(name).parents), Path(name)]
        found.add(next(str(place) for place in places if str(place) not in used))
    return sorted(found)


def some(names: list[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def _check_links(results: str, heads: Iterable[str]) -> None:
    """Refuse links to nothing: on a disk that is not mounted there may be results."""
    recorded = {os.path.relpath(path, results) for path in integrity.recorded(results)}
    folders = {str(parent) for name in recorded for parent in Path(name).parents}
    for name in sorted({*heads, *recorded, *folders}):
        path = os.path.join(results, name)
        if os.path.islink(path) and not os.path.exists(path):
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, which is not there: bring that back, or "
                "delete the link, and the same command makes the results again"
            )
