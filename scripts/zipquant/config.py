"""Checking the configuration before anything runs."""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from zipquant import integrity
from zipquant.errors import UserError

RESERVED = ("float", "rknn")
"""Names that no variant can have: the float model, and the best variant with all three in RKNN."""

SCHEMA = Path(__file__).with_name("config.schema.yaml")


def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    return yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))


def validate(config: Mapping[str, Any]) -> None:
    """Check a configuration against the schema.

    Raises:
        UserError: one line for each wrong or missing key, with the nearest known name or value.
    """
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
    if lines:
        raise UserError("config: " + "; ".join(lines))


def check_results(config: Mapping[str, Any], project: str | Path) -> None:
    """Check that the results folder holds nothing but results.

    Args:
        config: a valid configuration.
        project: the folder of the workflow.

    Raises:
        UserError: the workflow itself, the audio or the model lie in the results folder.
    """
    results, model = config["results"], config["model"]
    settings = {f"audio.{name}": config["audio"][name] for name in ("calibration", "evaluation")}
    settings |= {
        f"model.{name}": model[name] for name in ("encoder", "decoder", "joiner", "tokens")
    }
    for name, path in {"the workflow itself": project, **settings}.items():
        if path and integrity.is_inside(results, path):
            raise UserError(
                f"config: results: the folder '{results}' holds {name} ({path}); take a folder for "
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
        return [
            f"unknown key '{f'{where}.{key}' if where else key}'{_nearest(key, known)}"
            for key in unknown
        ]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return [f"'{f'{where}.{key}' if where else key}' is missing" for key in missing]
    if error.validator == "enum":
        known = ["null" if value is None else str(value) for value in error.validator_value]
        hint = _nearest(str(error.instance), known)
        return [f"{where}: '{error.instance}' is not known{hint or '.'} Known: {', '.join(known)}"]
    return [f"{where or 'the file'}: {error.message}"]


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""
