"""The documentation: in step with the code, in both languages, with links and names that exist."""

import difflib
import re
from pathlib import Path

import pytest
import yaml

import make_configuration as configuration
import make_lineage
from helpers.places import ROOT
from zipquant import config

FOR_DEVELOPERS = ("CHANGELOG.md", "CONTRIBUTING.md")
"""Pages for those who work on the code, in English alone."""

PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    if not path.name.endswith(".zh-CN.md") and path.name not in FOR_DEVELOPERS
)
CHINESE = sorted([*ROOT.glob("*.zh-CN.md"), *(ROOT / "docs").glob("*.zh-CN.md")])
ALL = [*PAGES, *CHINESE]


def name_of(path):
    return str(path.relative_to(ROOT))


def chinese_of(page: Path) -> Path:
    return page.with_name(f"{page.stem}.zh-CN.md")


def outside_code(text: str) -> str:
    """The text without fenced and indented blocks of code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^ {4}\S.*$", "", text, flags=re.MULTILINE)


def code_blocks(text: str) -> list[str]:
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [*fenced, *re.findall(r"(?:^ {4}\S.*\n)+", text, flags=re.MULTILINE)]


def shape(text: str) -> list[str]:
    """What a page and its translation have in common: headings, table rows, blocks of code."""
    marks = []
    for line in re.sub(r"^```.*?^```", "```", text, flags=re.MULTILINE | re.DOTALL).split("\n"):
        kind = re.match(r"#+ |\||```|!\[", line)
        if kind:
            marks.append(kind[0].strip())
    return marks


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", outside_code(text), flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


def words_of_code(text: str) -> set[str]:
    """The code spans and the lines of the code blocks of a page."""
    lines = [
        line.split("#")[0].strip() for block in code_blocks(text) for line in block.split("\n")
    ]
    return {*re.findall(r"`([^`\n]+)`", outside_code(text)), *filter(None, lines)}


@pytest.fixture(scope="module")
def effects():
    return configuration.effects()


def test_configuration_reference_is_in_step(effects):
    """Its text, its defaults, its translations, and what the workflow would compute again."""
    for language, expected in configuration.pages(effects).items():
        page = configuration.PAGES[language]
        lines = difflib.unified_diff(
            page.read_text().splitlines(), expected.splitlines(), name_of(page), "made again", n=0
        )
        difference = "\n".join(lines)
        assert not difference, f"{name_of(page)} is out of date: run `make docs`\n{difference}"


def test_reference_tells_what_a_change_computes_again(effects):
    assert effects[("traces", "lanes")] == ["report"]
    assert effects[("calibration", "seed")] == ["sample"]
    assert effects[("variants", "NAME", "running_mean")] == ["quantize"]
    assert effects[("evaluation", "one_step_chunks")] == ["evaluate"]
    unknown = [".".join(path) for path, rules in effects.items() if rules is None]
    assert not unknown, f"no other value is known of {unknown}: give `examples` in the schema"


@pytest.mark.parametrize("missing", ["The NPU to build for.", None])
def test_description_without_translation_is_named(monkeypatch, missing):
    known = configuration.translations()
    monkeypatch.setattr(
        configuration,
        "translations",
        lambda: (
            {text: known[text] for text in known if text != missing}
            | ({} if missing else {"Old words.": "旧"})
        ),
    )
    with pytest.raises(SystemExit, match=re.escape(missing or "Old words.")) as stopped:
        configuration.pages({})
    assert "run `make docs`" in str(stopped.value)


ODD = yaml.safe_load("""
required: [one, deep]
properties:
  one: {type: [integer, "null"], minimum: 2}
  deep:
    description: A section that may be left out.
    type: [object, "null"]
    properties:
      list: {type: array, items: {enum: [a, null, true]}}
      either: {oneOf: [{const: auto}, {type: number, exclusiveMinimum: 0, maximum: 1}]}
      names:
        patternProperties:
          "^x": {properties: {leaf: {type: boolean}}}
          "^y": {type: string}
""")


def test_nested_nullable_named_and_either_settings_are_found():
    found = {".".join(key.path): key for key in configuration.keys(ODD)}
    assert set(found) == {
        *("one", "deep.list", "deep.either", "deep.names.NAME.leaf", "deep.names.NAME")
    }
    assert found["one"].required
    assert not found["deep.list"].required


def test_values_are_told_in_words():
    def word(name, *values):
        return configuration.WORDS[name][0].format(*values)

    told = {
        key.path[-1]: configuration.allowed(key.schema, word) for key in configuration.keys(ODD)
    }
    assert told["one"] == "integer, at least 2 or `null`"
    assert told["list"] == "list of one of `a`, `null`, `true`"
    assert told["either"] == "`auto` or number, at most 1, more than 0"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_page_and_its_chinese_version_have_the_same_parts(page):
    other = chinese_of(page)
    assert other.exists(), f"{name_of(page)} has no Chinese version {other.name}"
    assert shape(page.read_text()) == shape(other.read_text())
    assert f"]({other.name})" in page.read_text()
    assert f"]({page.name})" in other.read_text()


@pytest.mark.parametrize("page", CHINESE, ids=name_of)
def test_chinese_page_has_an_english_one_and_speaks_chinese(page):
    assert (page.parent / page.name.replace(".zh-CN", "")).exists()
    text = outside_code(page.read_text())
    prose = re.sub(r"`[^`]*`|\|", "", text)
    assert len(re.findall(r"[\u4e00-\u9fff]", prose)) > 100


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_links_lead_somewhere(page):
    text = outside_code(page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text()), f"{name_of(page)}: {target}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name == "docs"], ids=name_of)
def test_index_lists_every_page(page):
    for index in (ROOT / "docs/README.md", ROOT / "docs/README.zh-CN.md"):
        other = chinese_of(page) if ".zh-CN" in index.name else page
        assert page.name == "README.md" or f"]({other.name})" in index.read_text()


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_commands_and_files_that_are_named_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in words_of_code(page.read_text()):
        for target in re.findall(r"^make ([a-z]+)", code):
            # `make install` is sherpa-onnx's.
            assert target in {*targets, "install"}, code
        for path in re.findall(r"^(?:PATH=\S+ )?python (\S+\.py)", code):
            assert (ROOT / path).is_file(), code
        if re.fullmatch(
            r"(scripts|rules|docs|envs|profiles|benchmarks|models|demo|tests)/[\w./-]+", code
        ):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_settings_that_are_named_exist(page):
    schema = config.schema()
    known = {".".join(key.path) for key in configuration.keys(schema)}
    known |= {".".join(name.split(".")[:depth]) for name in known for depth in (1, 2, 3)}
    # These two are a folder and a file in the pages, and so are those of the report.
    sections = set(schema["properties"]) - {"results", "bundle"}
    files = {f"report.{suffix}" for suffix in ("md", "json", "zip")}
    for code in words_of_code(page.read_text()):
        for name in re.findall(r"^([a-z_]+(?:\.\w+)+)(?:: \S+)?$", code):
            if name.split(".")[0] in sections and name not in files:
                assert name in known, f"{name_of(page)}: {name}"


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_yaml_examples_hold_settings_that_exist(page):
    schema = config.schema()
    for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        wanted = {
            path for path in paths_of(yaml.safe_load(block)) if path[0] in schema["properties"]
        }
        assert wanted
        for path in wanted:
            part = schema
            for step in path:
                pattern = next(iter(part.get("patternProperties", {}).values()), None)
                assert step in part.get("properties", {}) or pattern, (name_of(page), path)
                part = part.get("properties", {}).get(step, pattern)


def paths_of(values, path=()):
    if not isinstance(values, dict):
        return [path]
    return [found for key, value in values.items() for found in paths_of(value, (*path, key))]


def test_results_that_are_named_are_made_by_the_workflow():
    """Every results/... in the pages is a file that a rule writes, or a folder of such files."""
    rules = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    made = set(re.findall(r"result\(f?\"([^\"]+)\"\)", rules))
    made |= {
        f"lineage/NAME/{file}"
        for file in re.findall(r"recipe_file\(\"\{recipe\}\", \"([^\"]+)\"\)", rules)
    }
    # Made beside build.json, if the toolkit can; and by the run itself.
    made |= {"variants/NAME/encoder.rknn", ".lock"}
    made |= {"logs/NAME", "benchmarks/NAME", "features/NAME", "index/NAME"}
    patterns = [re.sub(r"\{+[^{}]*\}+", "NAME", name) for name in made]
    for page in ALL:
        for name in re.findall(r"`?results/([\w./{},-]*\w)", page.read_text()):
            parts = name.split("/")
            fits = any(
                all(
                    a == b or "NAME" in b or "{" in a or "*" in a
                    for a, b in zip(parts, pattern.split("/"), strict=False)
                )
                and (len(parts) <= len(pattern.split("/")) or pattern in FOLDERS)
                for pattern in patterns
            )
            assert fits or parts[0] in ("my-model",), f"{name_of(page)}: results/{name}"


FOLDERS = {"bundle", "variants/NAME/toolkit", "calibration/arrays"}


def test_lineage_pages_hold_the_same_figures():
    english, chinese = (
        (ROOT / "docs" / name).read_text() for name in ("lineage.md", "lineage.zh-CN.md")
    )
    table = english[english.index("| recipe |") :]
    assert chinese.endswith("\n".join(map(make_lineage.translate, table.split("\n"))))
