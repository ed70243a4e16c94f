"""Sentences for readers, in English and in Chinese: each stands once, in a YAML file."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self

import markupsafe
import yaml

LANGUAGES = ("en", "zh")
"""English is what programs, logs and the console get."""

PLAIN, MARKDOWN, HTML = "plain", "markdown", "html"
"""The forms of a phrase: without marks, with those of Markdown, and as a page has it."""

CAPITAL = "capital"
"""The phrase that begins its `what` with a capital letter."""

FILES = (Path(__file__).with_suffix(".yaml"), Path(__file__).parent / "report/words.yaml")
"""Those of the choice of the best variant, and those of the report alone: what stands in the second
can change without the choice, on which much depends, being made again."""

MARKS = re.compile(
    r"`(?P<code>[^`]+)`|\*(?P<em>[^*]+)\*|\[\[(?P<term>[^]|]+)(?:\|(?P<to>[^]]+))?]]"
)
"""Marks in the file: `code`, *emphasis*, and [[words|term]], a link to the glossary."""

BREAK = re.compile("(?<=[，。；：、）？]) ")
"""What a line break in the file becomes, which Chinese has no use for."""


class Phrase(str):
    """A sentence or a part of one that knows its other language.

    As a string it is plain English, so that it can go wherever a string can.

    Attributes:
        key: its name in one of `FILES`.
        values: what its placeholders stand for; other phrases among them, too. `items`, a list, is
            joined by the text itself. `count` decides between one and many.
    """

    key: str
    values: Mapping[str, Any]

    def __new__(cls, key: str, values: Mapping[str, Any]) -> Self:
        """Return the phrase of a key with its values filled in."""
        found = super().__new__(cls, _text(key, values, "en", PLAIN))
        found.key, found.values = key, values
        return found

    def text(self, language: str, form: str = PLAIN) -> str:
        """Return it in a language; `markupsafe.Markup` with `HTML`, its values escaped."""
        return _text(self.key, self.values, language, form)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"say": self.key, "with": _for_json(self.values)}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Phrase":
        """Return what `as_dict` has returned."""
        return cls(found["say"], {name: _from_json(v) for name, v in found["with"].items()})

    def __getnewargs__(self) -> tuple[str, Mapping[str, Any]]:
        """Let it be copied."""
        return self.key, self.values


def say(key: str, /, **values: Any) -> Phrase:
    """Return a phrase of `FILES`; its placeholders are filled with the values.

    Raises:
        KeyError: there is no such phrase, or a placeholder has no value.
    """
    return Phrase(key, values)


def listed(items: Iterable[Any], how: str = "comma") -> Phrase:
    """Return things one after the other, with `comma`, `semicolon`, `and`, `or` or `sentences`."""
    return Phrase(f"list.{how}", {"items": tuple(items)})


def time_between(ends: object) -> Phrase:
    """Return a time that lies between two ends; as a string it reads `3 to 4 ms` or `3 ms`."""
    low, _, high = str(ends).removesuffix(" ms").partition(" to ")
    return say("range.ms", low=low, high=high) if high else say("ms", value=low)


def in_language(value: Any, language: str, form: str = PLAIN) -> Any:
    """Return a phrase as its text in a language; what is none, as it is."""
    return value.text(language, form) if isinstance(value, Phrase) else value


def _text(key: str, values: Mapping[str, Any], language: str, form: str) -> str:
    template = _template(key, language, form, values.get("count") == 1)
    if "items" in values:
        return template.join(in_language(item, language, form) for item in values["items"])
    filled = {name: in_language(value, language, form) for name, value in values.items()}
    text = template.format(**filled)
    return text[:1].upper() + text[1:] if key == CAPITAL else text


@cache
def _template(key: str, language: str, form: str, one: bool) -> str:
    text = known()[key][language]
    if not isinstance(text, str):
        text = text[0 if one else 1]
    if language == "zh":
        text = BREAK.sub("", text)
    if form == HTML:
        return markupsafe.Markup(MARKS.sub(_html, str(markupsafe.escape(text))))
    return MARKS.sub(_plain if form == PLAIN else _markdown, text)


def _plain(mark: re.Match[str]) -> str:
    return mark["code"] or mark["em"] or mark["term"]


def _markdown(mark: re.Match[str]) -> str:
    return mark["term"] or mark[0]


def _html(mark: re.Match[str]) -> str:
    if mark["code"]:
        return f"<code>{mark['code']}</code>"
    if mark["em"]:
        return f"<em>{mark['em']}</em>"
    name = anchor(mark["to"] or mark["term"])
    return f'<a class="term" href="#{name}">{mark["term"]}</a>'


def anchor(term: str) -> str:
    """Return the id of a term in the glossary."""
    return f"term-{term.lower().replace(' ', '-')}"


@cache
def known() -> dict[str, dict[str, str | Sequence[str]]]:
    """Return all phrases: by key, by language, the text, or two for one and for many."""
    # libyaml's loader takes a tenth of the time, but not every build of PyYAML has it.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, dict[str, str | Sequence[str]]] = {}
    for file in FILES:
        found |= yaml.load(file.read_text(encoding="utf-8"), loader)
    return found


def _for_json(value: Any) -> Any:
    if isinstance(value, Phrase):
        return value.as_dict()
    if isinstance(value, Mapping):
        return {name: _for_json(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_for_json(entry) for entry in value]
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Phrase.from_dict(value)
    if isinstance(value, list):
        return [_from_json(entry) for entry in value]
    return value
