"""Write docs/configuration.md and its Chinese version: schema, config.yaml and workflow in words.

    python docs/make_configuration.py            # what `make docs` runs

Which rules a setting runs again is not written down anywhere: the workflow is planned twice, with
the setting as it stands and with another value of it, and the jobs are compared.
"""

import contextlib
import copy
import io
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from snakemake.utils import update_config

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from zipquant import config as configuration  # noqa: E402
from zipquant.board import measuring  # noqa: E402

TRANSLATIONS = ROOT / "docs/configuration.zh-CN.yaml"
PAGES = {"en": ROOT / "docs/configuration.md", "zh": ROOT / "docs/configuration.zh-CN.md"}
FIX = "run `make docs`"

NAME = "NAME"
"""Stands for the keys that a user may choose, such as the names of the variants."""

BOARD_RESULT = {
    "format": measuring.FORMAT,
    "machine": {},
    "networks": {"encoder.rknn": {"sha256": "0" * 64} | measuring.times([0.01])},
    "after": {"celsius": {}},
}
"""What a board may have measured."""

WORDS = {
    # What the pages are put together from, in the two languages.
    "anything": ("anything", "任意值"),
    "boolean": ("true or false", "true 或 false"),
    "integer": ("integer", "整数"),
    "number": ("number", "数"),
    "object": ("mapping", "映射"),
    "string": ("text", "文本"),
    "array": ("list of {0}", "列表，元素为{0}"),
    "one of": ("one of {0}", "{0} 之一"),
    "between": ("{0}, {1} to {2}", "{0}，{1} 到 {2}"),
    "at least": ("{0}, at least {1}", "{0}，不小于 {1}"),
    "at most": ("{0}, at most {1}", "{0}，不大于 {1}"),
    "more than": ("{0}, more than {1}", "{0}，大于 {1}"),
    "less than": ("{0}, less than {1}", "{0}，小于 {1}"),
    "or": (" or ", " 或 "),
    "comma": (", ", "、"),
    "colon": (": ", "："),
    "required": ("must be given", "必须给出"),
    "not set": ("not set", "未设置"),
    "nothing": ("nothing", "无"),
    "report alone": ("the report alone", "只有报告"),
    "on": ("{0} and what follows", "{0} 及其后的步骤"),
}

BOARD_COSTS = ("npu_layer_us", "cpu_layer_us", "conversion_us", "border_us", "gb_per_s")

BESIDE = {
    ("evaluation", "device_id"): {"evaluation": {"target": "rk3588"}},
    **{
        ("evaluation", "board_costs", key): {
            "evaluation": {"board_costs": dict.fromkeys(BOARD_COSTS, 10)}
        }
        for key in BOARD_COSTS
    },
}
"""Settings without which another has no meaning and is refused, by its path."""

COLUMNS = (
    "| key | what it is | values | default | computed again |",
    "| 键 | 含义 | 取值 | 默认值 | 改动后重新计算 |",
)

HEAD = (
    """# Every setting

[中文](configuration.zh-CN.md)

`config.yaml` holds the defaults and explains them at more length. Write what differs into a file of
your own and give it with `--configfile my.yaml`; it is merged key by key. A wrong key or value
stops the run before anything is computed, and the message names the nearest known one.

The last column says which rules a change runs again, and that all that depends on them follows. The
names are those that `snakemake -n` prints; the files of `rules/` have them in order. `snakemake
lineage` is not counted. `NAME` stands for a name of your choice.

<!-- Written by `make docs` from config.schema.yaml, config.yaml and the workflow; do not edit. -->
""",
    """# 全部设置

[English](configuration.md)

`config.yaml` 给出默认值，并有更详细的说明。把需要改动的设置写进自己的文件，用
`--configfile my.yaml` 指定；两者按键逐项合并。写错的键或值会在计算开始之前终止运行，
并提示最接近的正确写法。

最后一列是改动后会重新运行哪些规则，依赖它们的步骤随之重算；规则名与 `snakemake -n` 打印的一致，
`rules/` 中的文件按先后顺序排列。`snakemake lineage` 不计在内。`NAME` 代表自己取的名字。

<!-- 由 `make docs` 根据 config.schema.yaml、config.yaml 和工作流生成，请勿手工修改。 -->
""",
)


@dataclass(frozen=True)
class Key:
    """One setting.

    Attributes:
        path: its keys from the top; `NAME` where the user chooses the key.
        schema: its part of the schema.
        required: whether the section must have it.
    """

    path: tuple[str, ...]
    schema: Mapping[str, Any]
    required: bool


def keys(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[Key]:
    """Yield every setting of a schema, in its order; sections are not settings themselves."""
    for key, part in _parts(schema):
        if _is_section(part):
            yield from keys(part, (*path, key))
        else:
            yield Key((*path, key), part, key in schema.get("required", ()))


def sections(schema: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple, dict]]:
    """Yield the path and the schema of every section that has a description."""
    for key, part in _parts(schema):
        if _is_section(part):
            if "description" in part:
                yield (*path, key), part
            yield from sections(part, (*path, key))


def _parts(schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    chosen = [(NAME, part) for part in schema.get("patternProperties", {}).values()]
    return [*schema.get("properties", {}).items(), *chosen]


def _is_section(part: Mapping[str, Any]) -> bool:
    return "properties" in part or "patternProperties" in part


def defaults(key: Key, settings: Any) -> dict[str, Any]:
    """Return the values of a setting in config.yaml, by the names that are chosen there."""
    found = {"": settings}
    for step in key.path:
        parts = {name: part for name, part in found.items() if isinstance(part, Mapping)}
        if step == NAME:
            found = {chosen: value for part in parts.values() for chosen, value in part.items()}
        else:
            found = {name: part[step] for name, part in parts.items() if step in part}
    return found


def allowed(part: Mapping[str, Any], word) -> str:
    """Return in words what a setting may be."""
    for union in ("oneOf", "anyOf"):
        if union in part:
            return word("or").join(dict.fromkeys(allowed(option, word) for option in part[union]))
    if "const" in part:
        return code(part["const"])
    if "enum" in part:
        return word("one of", word("comma").join(map(code, part["enum"])))
    types = part.get("type", "anything")
    types = [types] if isinstance(types, str) else list(types)
    words = []
    for kind in types:
        if kind == "null":
            words.append(code(None))
        elif kind == "array":
            words.append(word("array", allowed(part.get("items", {}), word)))
        elif kind in ("integer", "number"):
            words.append(_bounded(word(kind), part, word))
        else:
            words.append(word(kind))
    return word("or").join(words)


def _bounded(text: str, part: Mapping[str, Any], word) -> str:
    if "minimum" in part and "maximum" in part:
        return word("between", text, part["minimum"], part["maximum"])
    bounds = {
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMinimum": "more than",
        "exclusiveMaximum": "less than",
    }
    for bound, phrase in bounds.items():
        if bound in part:
            text = word(phrase, text, part[bound])
    return text


def code(value: Any) -> str:
    """Return a value as it is written in YAML, as inline code."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True)
    return f"`{text.strip().removesuffix('...').strip()}`"


class Plan:
    """What the workflow would do from nothing: the jobs of each rule, without running any."""

    def __init__(self, changes: Mapping[str, Any]):
        from snakemake.api import SnakemakeApi
        from snakemake.settings.types import (
            ConfigSettings,
            DAGSettings,
            OutputSettings,
            ResourceSettings,
        )

        self.jobs: dict[str, set] = {}
        self.parents: dict[str, set[str]] = {}
        quiet = io.StringIO()
        with (
            contextlib.chdir(ROOT),
            contextlib.redirect_stderr(quiet),
            contextlib.redirect_stdout(quiet),
            SnakemakeApi(OutputSettings(dryrun=True)) as api,
        ):
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=1),
                config_settings=ConfigSettings(config=copy.deepcopy(dict(changes))),
                snakefile=Path("Snakefile"),
            )
            planned = workflow.dag(DAGSettings(targets={"all"}, forceall=True))
            planned.printrulegraph()
            dag = planned.workflow_api._workflow.dag
            for job in dag.jobs:
                self._add(job, dag.dependencies[job])

    def _add(self, job, dependencies) -> None:
        params = repr(sorted((name, repr(value)) for name, value in job.params.items()))
        content = (tuple(job.input), tuple(job.output), params)
        self.jobs.setdefault(job.rule.name, set()).add(content)
        parents = self.parents.setdefault(job.rule.name, set())
        parents.update(other.rule.name for other in dependencies)

    def first_changed(self, other: "Plan") -> list[str]:
        """Return the rules that another plan has new jobs of, but for those that follow anyway."""
        changed = [name for name in other.jobs if other.jobs[name] - self.jobs.get(name, set())]
        return [name for name in changed if not other.ancestors(name).intersection(changed)]

    def ancestors(self, rule: str) -> set[str]:
        """Return the rules that a rule depends on, directly or not."""
        found, todo = set(), [rule]
        while todo:
            for parent in self.parents.get(todo.pop(), ()):
                if parent not in found:
                    found.add(parent)
                    todo.append(parent)
        return found - {rule}


def recomputed(key: Key, settings: Mapping[str, Any], plan: Plan, models: Path) -> list[str] | None:
    """Return the first rules that a change of a setting runs again; None if no change is known.

    Args:
        key: the setting.
        settings: config.yaml.
        plan: the workflow as config.yaml has it.
        models: a folder with a copy of the demo's model.
    """
    parents = defaults(Key(key.path[:-1], {}, False), settings)
    if not parents:
        return None
    beside = BESIDE.get(key.path, {})
    before = Plan(beside) if beside else plan
    found: list[str] | None = None
    for chosen, parent in parents.items():
        value = parent.get(key.path[-1]) if isinstance(parent, Mapping) else None
        path = [chosen if step == NAME else step for step in key.path]
        for other in others(key, value, models):
            changes: Any = other
            for step in reversed(path):
                changes = {step: changes}
            both = copy.deepcopy(beside)
            update_config(both, changes)
            try:
                found = sorted(set(before.first_changed(Plan(both))))
            except SystemExit:  # the workflow refuses this value beside the other settings
                continue
            if found != ["report"]:
                return found
    return found


def others(key: Key, value: Any, models: Path) -> Iterator[Any]:
    """Yield other values that a setting may have, as long as they mean something."""
    part = key.schema
    kinds = part.get("type", [])
    text = "string" in ([kinds] if isinstance(kinds, str) else kinds) and "enum" not in part
    candidates: list[Any] = []
    for option in (part, *part.get("oneOf", ()), *part.get("anyOf", ())):
        candidates += option.get("enum", ())
        candidates += [option["const"]] if "const" in option else []
        candidates += option.get("examples", ())
    if isinstance(value, bool):
        candidates.append(not value)
    elif isinstance(value, int):
        candidates += [value + 1, value + 7, value - 1]
    elif isinstance(value, float):
        candidates += [value * 0.9, value + 0.1]
    if text:
        # Files of another name with the same content, and another folder of audio.
        candidates += [str(path) for path in sorted(models.iterdir()) if key.path[-1] in path.name]
        candidates += ["demo/audio"] if key.path[0] == "audio" else []
        candidates += ["results/other"] if key.path == ("results",) else []
        candidates += [str(models)] if key.path == ("model", "folder") else []
    if key.path[-1] == "state_outputs":
        candidates.append({"cached_len_0": "new_cached_len_0"})
    validator = jsonschema.Draft202012Validator(part)
    for candidate in candidates:
        if candidate != value and validator.is_valid(candidate):
            yield candidate


def translations() -> dict[str, str]:
    """Return the Chinese of each description in the schema."""
    return yaml.safe_load(TRANSLATIONS.read_text(encoding="utf-8"))


def pages(effects: Mapping[tuple[str, ...], list[str] | None]) -> dict[str, str]:
    """Return the text of the pages by language.

    Args:
        effects: what `recomputed` returns for each setting, by its path.

    Raises:
        SystemExit: a description has no Chinese translation, or a translation no description.
    """
    schema = configuration.schema()
    settings = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    chinese = translations()
    found = list(keys(schema))
    described = [key.schema.get("description", "") for key in found]
    described += [part["description"] for _, part in sections(schema)]
    without = sorted({".".join(key.path) for key in found if not key.schema.get("description")})
    untranslated = sorted(set(described) - set(chinese) - {""})
    unused = sorted(set(chinese) - set(described))
    problems = [
        *(f"config.schema.yaml: {name} has no description" for name in without),
        *(f"{TRANSLATIONS.name} lacks the Chinese of: {text}" for text in untranslated),
        *(f"{TRANSLATIONS.name} translates what no key says: {text}" for text in unused),
    ]
    if problems:
        sys.exit("\n".join([*problems, f"Fix these, then {FIX}."]))
    return {
        language: _page(found, schema, settings, effects, language, chinese) for language in PAGES
    }


def _page(found, schema, settings, effects, language, chinese) -> str:
    index = list(PAGES).index(language)

    def word(name: str, *values: Any) -> str:
        return WORDS[name][index].format(*values)

    def translated(text: str) -> str:
        return text if language == "en" else chinese[text]

    lines = [HEAD[index].rstrip(), ""]
    about = dict(sections(schema))
    for section, group in itertools.groupby(found, key=lambda key: key.path[0]):
        lines += [f"## {section}", ""]
        for path, part in about.items():
            if path[0] == section:
                name = f"{code_path(path)}{word('colon')}" if len(path) > 1 else ""
                lines += [name + translated(part["description"]), ""]
        lines += [COLUMNS[index], "| --- | --- | --- | --- | --- |"]
        for key in group:
            row = [
                code_path(key.path),
                _cell(translated(key.schema["description"])),
                allowed(key.schema, word),
                _default(key, settings, word),
                _effect(effects[key.path], word),
            ]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def code_path(path: tuple[str, ...]) -> str:
    """Return a setting's path as inline code."""
    return f"`{'.'.join(path)}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(key: Key, settings: Mapping[str, Any], word) -> str:
    found = defaults(key, settings)
    if not found:
        return word("required") if key.required else word("not set")
    if NAME not in key.path:
        return code(found[""])
    named = [f"`{name}`{word('colon')}{code(value)}" for name, value in found.items()]
    return word("comma").join(named)


def _effect(rules: list[str] | None, word) -> str:
    if rules is None:
        return "-"
    if rules in ([], ["report"]):
        return word("report alone" if rules else "nothing")
    return word("on", word("comma").join(f"`{rule}`" for rule in rules))


def effects() -> dict[tuple[str, ...], list[str] | None]:
    """Return what a change of each setting runs again, by planning the workflow with it."""
    settings = yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        (models / "board_result.json").write_text(json.dumps(BOARD_RESULT), encoding="utf-8")
        # Not called as the file that is found beside an encoder.
        (models / "other-keywords.txt").write_text("▁one ▁two\n", encoding="utf-8")
        for path in sorted((ROOT / "models/demo").iterdir()):
            if path.is_file():
                shutil.copy(path, models)
        logging.disable()  # what Snakemake says of each plan
        try:
            plan = Plan({})
            return {
                key.path: recomputed(key, settings, plan, models)
                for key in keys(configuration.schema())
            }
        finally:
            logging.disable(logging.NOTSET)


def main() -> None:
    for language, text in pages(effects()).items():
        PAGES[language].write_text(text, encoding="utf-8")
        print(f"wrote {os.path.relpath(PAGES[language])}")


if __name__ == "__main__":
    main()
