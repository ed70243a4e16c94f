"""From a model and a folder of audio to a settings file: what `make model` checks and writes.

The check runs before anything is installed, so this module imports the standard library alone, and
modules that do.
"""

import os
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from zipquant.audio import manifest
from zipquant.errors import UserError
from zipquant.toolkit import platforms, versions


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        model: a folder, an archive or the ONNX file of a streaming encoder.
        audio: a folder of speech, or a manifest.
        platform: the NPU, such as `rk3588`.
        name: of the run: its settings are in `<name>.yaml`, its results in `results/<name>`.
        toolkit: the version of rknn-toolkit2 that fits the board's runtime; empty for the default.
    """

    model: str
    audio: str
    platform: str
    name: str
    toolkit: str = ""

    @property
    def settings_file(self) -> Path:
        """The file of settings that belongs to it."""
        return Path(f"{self.name}.yaml")


def request(model: str, audio: str, platform: str, name: str = "", runtime: str = "") -> Request:
    """Check what the user asks for.

    Args:
        model: see `Request`.
        audio: see there.
        platform: see there.
        name: see there; empty for one made of the model's.
        runtime: the version of the board's librknnrt; empty where it is not known.

    Raises:
        UserError: a part is missing or wrong, one line that says which.
    """
    for value, key, example in (
        (model, "MODEL", "a folder or an archive with encoder, decoder, joiner and tokens.txt"),
        (audio, "AUDIO", "a folder of speech, like what the board will hear"),
        (platform, "PLATFORM", f"one of {', '.join(platforms.PLATFORMS)}"),
    ):
        if not value:
            raise UserError(f"{key} is not given: make model {key}=..., {example}")
    model, audio = os.path.expanduser(model), os.path.expanduser(audio)
    _check_model(model)
    if platform not in platforms.PLATFORMS:
        raise UserError(
            f"PLATFORM: '{platform}' is not known. Known: {', '.join(platforms.PLATFORMS)}"
        )
    utterances = manifest.read(audio)
    if len(utterances) < 2:
        raise UserError(f"AUDIO: {audio} has one file; at least two are needed, better hundreds")
    toolkit = versions.for_runtime(runtime) if runtime else ""
    return Request(model, audio, platform, name or _name_of(model), toolkit)


def _check_model(model: str) -> None:
    path = Path(model)
    if path.is_dir():
        if not any(path.rglob("*.onnx")):
            raise UserError(f"MODEL: the folder {model} holds no .onnx file")
    elif not path.is_file():
        raise UserError(f"MODEL: there is no folder or file {model}")
    elif path.suffix != ".onnx" and not (tarfile.is_tarfile(path) or zipfile.is_zipfile(path)):
        raise UserError(f"MODEL: {model} is neither a folder, nor an archive, nor an .onnx file")


def _name_of(model: str) -> str:
    name = re.sub(r"(\.tar)?\.\w+$", "", Path(model).resolve().name)
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.") or "model"


def settings(asked: Request) -> str:
    """Return the settings as YAML, with what to look at next.

    Args:
        asked: the request.
    """
    toolkit = f"toolkit: {asked.toolkit}\n" if asked.toolkit else ""
    return f"""\
# Written by `make model`. Change what you like, and run it again:
#   .venv/bin/snakemake --cores all --configfile {asked.settings_file}
# config.yaml has all settings with their defaults; docs/configuration.md explains them.
results: results/{asked.name}
model: {_quoted(asked.model)}
audio:
  # A fifth of it is measured with and not calibrated with.
  source: {_quoted(asked.audio)}
platform: {asked.platform}
{toolkit}"""


def _quoted(text: str) -> str:
    """Return a text as YAML's single-quoted scalar, whatever it holds."""
    doubled = text.replace("'", "''")
    return f"'{doubled}'"


def write(asked: Request) -> bool:
    """Write the settings file; one that is there is left as it is, since it may have been edited.

    Returns:
        Whether it was written.

    Raises:
        UserError: there is one for another model, audio, platform or toolkit.
    """
    path, text = asked.settings_file, settings(asked)
    if not path.exists():
        path.write_text(text, encoding="utf-8")
        return True
    known = path.read_text(encoding="utf-8")
    wanted = [
        line for line in text.splitlines() if re.match(r"model:|  source:|platform:|toolkit:", line)
    ]
    if other := [line.strip() for line in wanted if line not in known.splitlines()]:
        raise UserError(
            f"{path} is there already and does not say '{other[0]}': give another NAME=..., or "
            f"delete or edit {path}"
        )
    return False
