"""Looking at settings files before Snakemake reads them, which answers mistakes with tracebacks.

profiles/default calls this with the command line, before anything else of a run.
"""

import json
import sys
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from zipquant.errors import UserError, plain
from zipquant.jobs import surroundings

OPTIONS = ("--configfile", "--configfiles")

DEEPEST = 50
"""Mappings and lists within each other; the settings themselves have 5."""

LARGEST = 1 << 24
"""Bytes of a settings file."""

TEMPLATE = "__use_yte__"
"""The key with which Snakemake takes a settings file for a program, which it runs."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice; YAML itself would take the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.YAMLError(f"'{key.value}' is given twice{key.start_mark}")
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def check(arguments: Sequence[str]) -> None:
    """Look at what a run needs before it begins; end with one line where it is not right.

    Args:
        arguments: the command line, which names the settings files.
    """
    try:
        surroundings.check()
        for path in of_command(arguments):
            read(path)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def of_command(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the settings files that a command line of Snakemake names."""
    taking = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in OPTIONS and equals:
            yield value
        elif argument.startswith("-"):
            taking = argument in OPTIONS
        elif taking:
            yield argument


def read(path: str | Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        UserError: it is missing, no UTF-8 text, no YAML mapping, nested too deeply, holds itself
            or a key twice, or would be run as a program.
    """
    text = _text(Path(path))
    try:
        value = json.loads(text) if _is_json(text) else yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:
        reason = " ".join(plain(str(error)).split())
        raise UserError(f"{path} is not valid YAML: {reason[:300]}") from None
    except RecursionError:
        raise UserError(_too_deep(path)) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no settings: write lines such as 'platform: rk3588'")
    if TEMPLATE in value:
        raise UserError(f"{path}: the key '{TEMPLATE}' would run it as a program; remove it")
    _check_depth(path, value)
    return value


def _text(path: Path) -> str:
    """Return the content of a settings file."""
    try:
        if not path.exists():
            raise UserError(f"there is no settings file '{path}': see --configfile")
        if not path.is_file():
            raise UserError(f"{path} is no settings file, but a folder or a device")
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path} is too large for a settings file")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{str(path)[:200]} cannot be read ({error.strerror})") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path} is UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: it is not UTF-8 (GBK, Latin-1 or another one): save it as UTF-8"
        ) from None


def _is_json(text: str) -> bool:
    return text.lstrip().startswith("{") and "\t" in text


def _check_depth(path: str | Path, value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST):
        level = [
            part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)
        ]
        if not level:
            return
        # YAML's references can make a small file a huge one.
        level = list({id(part): part for part in level}.values())
    raise UserError(_too_deep(path))


def _parts(whole: dict | list) -> list:
    return list(whole.values()) if isinstance(whole, dict) else whole


def _too_deep(path: str | Path) -> str:
    return f"{path}: more than {DEEPEST} lists and mappings within each other, or one in itself"
