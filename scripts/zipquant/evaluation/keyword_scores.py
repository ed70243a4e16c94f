"""Keywords that are missed, and those that are heard where they were not said."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zipquant.audio import index
from zipquant.board.vocabulary import words
from zipquant.jobs import files
from zipquant.recognition import error_rates
from zipquant.recognition.error_rates import FLOAT, Counts

Heard = Mapping[str, Mapping[str, Any]]
"""Of a model, by utterance its `seconds`, and `hits`, how often each keyword was heard."""


def read(paths: Iterable[str | Path]) -> dict[str, dict[str, Any]]:
    """Read the files of `spotting.spot_shard` of one model; what was cut is put together again."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        for name, entry in files.read_json(path).items():
            whole = found.setdefault(index.original(name), {"seconds": 0.0, "hits": {}})
            whole["seconds"] += entry["seconds"]
            for keyword, _ in entry["hits"]:
                whole["hits"][keyword] = whole["hits"].get(keyword, 0) + 1
    return found


def read_models(models: Sequence[str], paths: Sequence[str | Path]) -> dict[str, Heard]:
    """Read what models have heard: all shards of the first, then of the next."""
    shards = len(paths) // len(models)
    return {
        model: read(paths[position * shards : (position + 1) * shards])
        for position, model in enumerate(models)
    }


@dataclass(frozen=True)
class Expected:
    """How often a keyword should be heard in an utterance.

    Attributes:
        least: how often it was said, but not as a part of a longer keyword.
        most: how often it was said.
    """

    least: int
    most: int


def expected(keywords: Sequence[str], text: str) -> dict[str, Expected]:
    """Return how often each keyword should be heard where a text was said.

    Of "two three four" a search that knows "two three" too hears the one or the other: where the
    longer one is heard, the shorter one is no miss, and where it is heard, no false alarm.

    Args:
        keywords: their names; an underscore in them is a space, as files of keywords write it.
        text: what was said.
    """
    said = words(text)
    spelt = {name: words(name.replace("_", " ")) for name in keywords}
    places = {name: _places(said, spelling) for name, spelling in spelt.items()}
    found = {}
    for name, starts in places.items():
        size = len(spelt[name])
        longer = [
            (start, start + len(spelt[other]))
            for other, begun in places.items()
            if len(spelt[other]) > size
            for start in begun
        ]
        inside = [s for s in starts if any(a <= s and s + size <= b for a, b in longer)]
        found[name] = Expected(len(starts) - len(inside), len(starts))
    return found


def _places(said: Sequence[str], spelling: Sequence[str]) -> list[int]:
    """Return where words are said; of two places that share a word the first, as in the search."""
    places, size = [], len(spelling)
    for at in range(len(said) - size + 1 if size else 0):
        if said[at : at + size] == spelling and (not places or at >= places[-1] + size):
            places.append(at)
    return places


@dataclass(frozen=True)
class Tally:
    """What a model made of keywords, by utterance and keyword, but for `seconds`.

    Attributes:
        said: how often it was said, at least.
        missed: how often it was said and not heard.
        alarms: how often it was heard and not said.
        seconds: of each utterance.
    """

    said: np.ndarray
    missed: np.ndarray
    alarms: np.ndarray
    seconds: np.ndarray

    @property
    def misses(self) -> Counts:
        """The misses of utterances with a keyword, as errors out of keywords."""
        said = self.said.sum(axis=1)
        return Counts(self.missed.sum(axis=1)[said > 0], said[said > 0])

    @property
    def false(self) -> Counts:
        """The false alarms of each utterance, as errors out of seconds."""
        return Counts(self.alarms.sum(axis=1), self.seconds)


def tally(
    heard: Mapping[str, Heard], keywords: Sequence[str], references: Mapping[str, str]
) -> dict[str, Tally]:
    """Count misses and false alarms of all models on the same utterances.

    Args:
        heard: by model; `FLOAT` must be one of them.
        keywords: their names.
        references: transcript by utterance id. Where there are some, utterances without one are
            left out; where there are none, what the float model hears is expected.
    """
    own = heard[FLOAT]
    transcribed = [name for name in sorted(own) if references.get(name)]
    if transcribed:
        due = {name: expected(keywords, references[name]) for name in transcribed}
    else:
        counts = {name: own[name]["hits"] for name in sorted(own)}
        due = {
            name: {word: Expected(hits.get(word, 0), hits.get(word, 0)) for word in keywords}
            for name, hits in counts.items()
        }
    shape = (len(due), len(keywords))
    least, most = (
        np.array([[getattr(d[word], end) for word in keywords] for d in due.values()], dtype=int)
        for end in ("least", "most")
    )
    seconds = np.array([own[name]["seconds"] for name in due])
    found = {}
    for model, utterances in heard.items():
        hits = [[utterances[name]["hits"].get(word, 0) for word in keywords] for name in due]
        times = np.array(hits, dtype=int).reshape(shape)
        missed, alarms = (least - times).clip(0), (times - most).clip(0)
        found[model] = Tally(least.reshape(shape), missed, alarms, seconds)
    return found


def score(
    heard: Mapping[str, Heard], keywords: Sequence[str], references: Mapping[str, str]
) -> dict[str, Any]:
    """Return the misses and false alarms of all models.

    Args:
        heard: by model; `FLOAT` must be one of them.
        keywords: their names.
        references: see `tally`.

    Returns:
        `transcribed`, whether there are transcripts to go by; `hours` of audio; `said`, how often
        each keyword was said at least; and by model in `models`: `misses`, see `error_rates.rate`,
        for other models than float with the `difference` from float's; how many false `alarms` in
        all, and how many `alarms_per_hour`; `missed_of` and `alarms_of` each keyword.
    """
    found = tally(heard, keywords, references)
    base = found[FLOAT]
    hours = float(base.seconds.sum() / 3600)
    models: dict[str, Any] = {}
    for model, counts in found.items():
        alarms = int(counts.alarms.sum())
        models[model] = {
            "misses": error_rates.rate(counts.misses),
            "alarms": alarms,
            "alarms_per_hour": alarms / hours if hours else 0.0,
            "missed_of": _by_keyword(keywords, counts.missed),
            "alarms_of": _by_keyword(keywords, counts.alarms),
        }
        if model != FLOAT:
            difference = error_rates.difference(counts.misses, base.misses)
            models[model]["misses"]["difference"] = difference
    return {
        "transcribed": any(references.get(name) for name in heard[FLOAT]),
        "hours": hours,
        "said": _by_keyword(keywords, base.said),
        "models": models,
    }


def _by_keyword(keywords: Sequence[str], counts: np.ndarray) -> dict[str, int]:
    return dict(zip(keywords, counts.sum(axis=0).tolist(), strict=True))
