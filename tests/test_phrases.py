"""The phrases of the report: both languages say the same, and all that is used is there."""

import json
import re
from string import Formatter

import pytest

from helpers.places import ROOT
from zipquant import phrases
from zipquant.phrases import HTML, MARKDOWN, Phrase, listed, say

LIBRARY = ROOT / "scripts/zipquant"

BUILT = re.compile(
    r"(?:col|section|set|set-name|status|mode|timed|measure|reason|next|plot|glossary|list"
    r"|outputs|inputs|tile|warning|files|missed|precision)\..+"
)
"""Keys that are put together of a group and a name."""


def texts(entry: str | list[str]) -> list[str]:
    return [entry] if isinstance(entry, str) else entry


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def faults(entry: dict) -> list[str]:
    """Return what is wrong with a phrase."""
    if set(entry) != set(phrases.LANGUAGES):
        return ["a language is missing"]
    found = []
    used = [placeholders(text) for form in entry.values() for text in texts(form)]
    # What is one need not be counted.
    if any(names | {"count"} != used[-1] | {"count"} for names in used):
        found.append("other placeholders")
    terms = [
        sorted(m["to"] or m["term"] for m in phrases.MARKS.finditer(texts(form)[-1]) if m["term"])
        for form in entry.values()
    ]
    glossary = {phrases.anchor(key.removeprefix("glossary.")) for key in phrases.known()}
    if terms[0] != terms[1] or not {phrases.anchor(term) for term in terms[0]} <= glossary:
        found.append("other terms")
    chinese = re.sub(r"`[^`]*`|{[^}]*}", "", "".join(texts(entry["zh"])))
    if re.search(r"[,;?!](?=\s|$)|[\u4e00-\u9fff][,:;]", chinese):
        found.append("a half-width stop in Chinese")
    return found


def test_every_phrase_has_both_languages_with_the_same_placeholders_and_terms():
    wrong = {key: faults(entry) for key, entry in phrases.known().items() if faults(entry)}
    assert wrong == {}
    marks = [
        mark for entry in phrases.known().values() for mark in phrases.MARKS.finditer(str(entry))
    ]
    linked = {phrases.anchor(mark["to"] or mark["term"]) for mark in marks if mark["term"]}
    keys = {key.removesuffix(".name") for key in phrases.known() if key.startswith("glossary.")}
    assert {phrases.anchor(key.removeprefix("glossary.")) for key in keys} == linked
    assert faults({"en": "{a} is"}) and faults({"en": "{a} is", "zh": "{b} 是"})
    assert faults({"en": "[[x|layer]]", "zh": "层"}) and faults({"en": "a, b", "zh": "甲, 乙"})


def test_every_phrase_that_is_used_is_there_and_every_one_is_used():
    sources = [*LIBRARY.rglob("*.py"), *LIBRARY.rglob("*.j2")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    used = set(re.findall(r'\bsay\(\s*"([\w.-]+)"\s*[,)]', code))
    used |= {f"col.{name}" for name in re.findall(r'\bcol\("([\w-]+)"', code)}
    assert used and used <= set(phrases.known())
    quoted = set(re.findall(r'"([\w.-]+)"', code))
    left = {key for key in phrases.known() if key not in used | quoted and not BUILT.match(key)}
    assert left == set()


def test_phrase_is_english_text_that_can_be_said_in_chinese():
    loss = say("lost.more", points=0.31, metric="WER")
    assert loss == "loses 0.3 points WER against float"
    said = say("judged", name="int8", what=listed([loss, say("lost.none", metric="CER")], "and"))
    assert said == "int8 loses 0.3 points WER against float and loses no CER against float"
    chinese = "int8：WER 比浮点模型高 0.3 个百分点，CER 与浮点模型持平"
    assert said.text("zh") == chinese
    again = Phrase.from_dict(json.loads(json.dumps(said.as_dict())))
    assert (again, again.text("zh")) == (said, chinese)
    assert say("utterances", count=1) == "1 utterance" and say("utterances", count=2)[-1] == "s"
    assert say("capital", what=say("unsuited.silent", silent=1, used=2, name="a")) == (
        "1 of 2 files of a are silent"
    )


def test_values_are_escaped_and_marks_are_of_the_form_that_is_asked_for():
    said = say("next.copy", archive="<a>/bundle.tar")
    assert said == "Copy the bundle to the board: scp <a>/bundle.tar USER@BOARD:"
    assert "`scp <a>/bundle.tar USER@BOARD:`" in said.text("en", MARKDOWN)
    page = said.text("zh", HTML)
    assert '<a class="term" href="#term-bundle">部署包</a>' in page
    assert "<code>scp &lt;a&gt;/bundle.tar USER@BOARD:</code>" in page


def test_unknown_phrase_and_missing_value_are_errors():
    with pytest.raises(KeyError, match="nothing"):
        say("nothing")
    with pytest.raises(KeyError, match="points"):
        say("lost.more", metric="WER")
