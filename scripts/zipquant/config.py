"""Checking the configuration before anything runs."""

import difflib
import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from zipquant.errors import UserError
from zipquant.jobs import folder, integrity
from zipquant.toolkit import platforms, versions

RESERVED = ("float", "rknn")
"""Names that no variant can have: the float model, and the best variant with all three in RKNN."""

MOST_VALUES = 10_000

SCHEMA = Path(__file__).with_name("config.schema.yaml")


DEFAULTS = "config.yaml"
"""The file with all settings, in the folder of the workflow."""

PATHS = ("audio.source", "audio.calibration", "audio.evaluation")
PATHS += tuple(
    f"model.{key}" for key in ("folder", "encoder", "decoder", "joiner", "tokens", "keywords")
)
PATHS += ("evaluation.board_result",)
"""The settings that name files to read."""

REPLACED = {
    "least_int8_macs": "give most_time_added, what float16 layers may add to the time of a chunk, "
    "as a share of that in int8 (0.05)",
}
"""Settings of earlier versions, and what to do about each."""

WORDS = ("auto",)
"""What stands in place of a path."""


def complete(
    given: Mapping[str, Any], files: Sequence[str | Path], workflow: str | Path
) -> dict[str, Any]:
    """Return the whole configuration: what is given, the defaults for the rest, paths resolved.

    Args:
        given: the settings of the user's files and command line, merged.
        files: the user's files, later ones before earlier ones.
        workflow: the folder of the workflow, with `DEFAULTS` in it.

    Raises:
        UserError: the section of the model or of the audio is neither a path nor a section.
    """
    defaults = Path(workflow) / DEFAULTS
    config = _merged(_read(defaults), given)
    model = config.get("model")
    if isinstance(model, str):
        # `model: path` is short for the folder, the archive or the encoder itself.
        key = "encoder" if model.lower().endswith(".onnx") else "folder"
        whole = _read(defaults)["model"]
        config["model"] = {**whole, "encoder": WORDS[0], key: model}
    if isinstance(config.get("audio"), str):
        # Likewise for audio that is split into both sets.
        config["audio"] = {**_read(defaults)["audio"], "source": config["audio"]}
    for section, example in (("model", "path/to/folder"), ("audio", "path/to/recordings")):
        if not isinstance(config.get(section), dict):
            raise UserError(
                f"config: {section} is neither a path nor a section; give for example "
                f"`{section}: {example}`"
            )
    sources = [(_read(file), Path(file).absolute().parent) for file in (*reversed(files), defaults)]
    for where in PATHS:
        section, key = where.split(".")
        part = config.get(section)
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(value, str) and value not in WORDS:
            part[key] = resolve(value, _bases(sources, section, key, value))
    image = config.get("container")
    if isinstance(image, str) and not is_address(image):
        config["container"] = resolve(image, _bases(sources, "container", "", image))
    return config


def is_address(image: str) -> bool:
    """Return whether an image is not a file but has to be fetched, such as docker://name."""
    return "://" in image


def _bases(
    sources: Sequence[tuple[Mapping[str, Any], Path]], section: str, key: str, value: str
) -> list[Path]:
    """Return the folder of the file that says `value`, if one does."""
    for content, base in sources:
        part = content.get(section)
        if part == value or (isinstance(part, Mapping) and part.get(key) == value):
            return [base]
    return []


def resolve(path: str, bases: Iterable[Path]) -> str:
    """Return a path as it is opened: `~` and variables expanded, relative to the right folder.

    Args:
        path: as it stands in a settings file.
        bases: folders that it may be relative to, before the working directory. It is relative to
            the first in which it exists.

    Returns:
        The path: relative to the working directory where the file lies below it. A path of
        something that is nowhere stays as it is, but for `~` and variables.

    Raises:
        UserError: it has a variable that is not set.
    """
    expanded = os.path.expandvars(os.path.expanduser(path))
    unset = re.search(r"\$\{?([A-Za-z_]\w*)\}?", expanded)
    if unset and not os.path.exists(expanded):
        raise UserError(f"config: {path}: the variable {unset[1]} is not set")
    if os.path.isabs(expanded):
        return expanded
    here = Path.cwd()
    for base in bases:
        if base != here and (base / expanded).exists():
            found = Path(os.path.normpath(base / expanded))
            return str(found.relative_to(here)) if found.is_relative_to(here) else str(found)
    return expanded


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with others put over them, section by section, as Snakemake does it."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _read(path: str | Path) -> dict[str, Any]:
    """Return the settings of a YAML or JSON file; Snakemake has read it before."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration, with the platforms and toolkits there are."""
    loaded = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    loaded["properties"]["platform"]["enum"] = list(platforms.PLATFORMS)
    loaded["properties"]["toolkit"]["enum"] = list(versions.VERSIONS)
    target = loaded["properties"]["evaluation"]["properties"]["target"]
    target["enum"] = [None, *platforms.PLATFORMS]
    return loaded


def validate(config: Mapping[str, Any]) -> None:
    """Check a configuration against the schema.

    Raises:
        UserError: one line for each wrong or missing key, with the nearest known name or value.
    """
    _check_values(config)
    checker = jsonschema.Draft202012Validator(schema())
    errors = sorted(checker.iter_errors(config), key=lambda error: list(map(str, error.path)))
    # Several missing keys of one section are several errors, and each names all of them.
    lines = list(dict.fromkeys(line for error in errors for line in _explain(error)))
    if not lines and not any(config["variants"].values()):
        lines = ["variants: every one is null, so there is nothing to build; give at least one"]
    if not lines:
        lines = [
            f"variants: '{name}' is a name that Zipquant itself uses; take another"
            for name in RESERVED
            if config["variants"].get(name)
        ]
    if not lines:
        lines = _impossible(config)
    if lines:
        raise UserError("config: " + "; ".join(lines))


def _impossible(config: Mapping[str, Any]) -> list[str]:
    """Return which settings, each right by itself, do not go together."""
    variants = {name: settings for name, settings in config["variants"].items() if settings}
    found = platforms.problems(config["platform"], variants)
    target = config["evaluation"]["target"]
    if target not in (None, config["platform"]):
        found.append(
            f"evaluation.target: a board with {target} does not run what is built for "
            f"{config['platform']} (platform); give both alike"
        )
    if config["evaluation"]["device_id"] and not target:
        found.append("evaluation.device_id: it needs evaluation.target, the board's platform")
    if config["evaluation"]["engine"] == "emulation" and target:
        found.append(
            "evaluation.engine: emulation does not go with evaluation.target, which takes a board; "
            "leave one of them at its default"
        )
    most = config["calibration"]["rows"]
    found += [
        f"variants.{name}.rows: {settings['rows']} is more than calibration.rows, {most}"
        for name, settings in variants.items()
        if settings.get("rows", 0) > most
    ]
    return found


def _check_values(config: Mapping[str, Any]) -> None:
    """Refuse what the schema cannot tell: numbers that are none, keys of other types, odd text.

    YAML's references can make a small file a huge one, so this counts as it goes.
    """
    todo: list[tuple[str, Any]] = [("", config)]
    for count in itertools.count():
        if not todo:
            return
        where, value = todo.pop()
        if count > MOST_VALUES:
            raise UserError(
                f"config: more than {MOST_VALUES} values, or values that hold themselves"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"config: {where}: {value} is no number that means something")
        if isinstance(value, int) and abs(value) >= 1 << 63:
            raise UserError(f"config: {where}: the number has more than 63 bits")
        if isinstance(value, str) and re.search(r"[\x00-\x1f\x7f-\x9f{}<>\ud800-\udfff]", value):
            raise UserError(
                f"config: {where}: {value[:100]!r} has a control character, or one of {{}}<>, "
                "which Snakemake takes for a pattern; rename the file or folder"
            )
        if isinstance(value, Mapping):
            if odd := [key for key in value if not isinstance(key, str)]:
                raise UserError(
                    f"config: {where or 'the file'}: the key {odd[0]!r} is no text; quote it"
                )
            todo += [(f"{where}.{key}" if where else key, part) for key, part in value.items()]
        elif isinstance(value, list):
            todo += [(where, part) for part in value]


def settle_results(
    config: MutableMapping[str, Any], project: str | Path, model: Mapping[str, Any]
) -> None:
    """Check that the results folder can be one, and settle on one spelling of it.

    Args:
        config: a valid configuration; `results` becomes relative in the working directory, and
            absolute elsewhere.
        project: the folder of the workflow.
        model: the section `model` with the files that were found.

    Raises:
        UserError: no folder can be there, it is one of the workflow's own, or the workflow itself,
            the audio or the model lie in it.
    """
    given = config["results"]
    config["results"] = results = folder.normal(given)
    if own := folder.of_project(results, project):
        raise UserError(
            f"config: results: '{given}' lies in '{own}', which belongs to the workflow; take a "
            "folder for the results alone"
        )
    audio = ("source",) if config["audio"]["source"] else ("calibration", "evaluation")
    settings = {f"audio.{name}": config["audio"][name] for name in audio}
    settings |= {
        f"model.{name}": model[name] for name in ("encoder", "decoder", "joiner", "tokens")
    }
    for name, path in {"the workflow itself": project, **settings}.items():
        if path and integrity.is_inside(os.path.realpath(results), os.path.realpath(path)):
            raise UserError(
                f"config: results: the folder '{given}' holds {name} ({path}); take a folder for "
                "the results alone"
            )


def _explain(error: jsonschema.ValidationError) -> list[str]:
    where = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        patterns = error.schema.get("patternProperties", {})
        unknown = [
            str(key)
            for key in error.instance
            if key not in known and not any(re.search(p, str(key)) for p in patterns)
        ]
        if where == "variants":
            return [
                f"variants: '{name[:60]}' is no name: take letters, digits, _ and -, 40 at most"
                for name in unknown
            ]
        return [
            f"unknown key '{f'{where}.{key}' if where else key}'"
            + (
                f", of an earlier version: {REPLACED[key]}"
                if key in REPLACED
                else _nearest(key, known)
            )
            for key in unknown
        ]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"'{f'{where}.{key}' if where else key}' is missing" for key in missing]
    if where == "toolkit":
        return [versions.unknown(error.instance)]
    if error.validator == "enum":
        known = ["null" if value is None else str(value) for value in error.validator_value]
        if why := platforms.why_not(str(error.instance)):
            return [f"{where}: {error.instance} is not supported: {why}. Known: {', '.join(known)}"]
        hint = _nearest(str(error.instance), known)
        return [f"{where}: '{error.instance}' is not known{hint or '.'} Known: {', '.join(known)}"]
    return [f"{where or 'the file'}: {error.message[:300]}"]


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""
