"""Word and character error rates of texts, with confidence intervals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from zipquant.board import vocabulary
from zipquant.errors import UserError

FLOAT = "float"
"""Name of the float model among those that are scored."""

RESAMPLES = 2000
"""Resamplings of the bootstrap; more change the interval's ends by less than a tenth."""

UNITS = {"word": vocabulary.words, "character": vocabulary.characters}


@dataclass(frozen=True)
class Counts:
    """What an error rate is made of, by utterance.

    Attributes:
        errors: substitutions, deletions and insertions of each utterance.
        units: words or characters of each reference.
    """

    errors: np.ndarray
    units: np.ndarray


def count(references: Sequence[str], hypotheses: Sequence[str], unit: str) -> Counts:
    """Count the errors of texts against references, by the least edit distance (jiwer).

    Args:
        references: what was said, one text an utterance.
        hypotheses: what was recognised, in the same order.
        unit: `word` or `character`; the texts are normalized as in `vocabulary`.
    """
    split = UNITS[unit]
    expected = [split(text) for text in references]
    output = jiwer.process_words(
        [" ".join(units) for units in expected], [" ".join(split(text)) for text in hypotheses]
    )
    errors = [
        sum(
            max(c.ref_end_idx - c.ref_start_idx, c.hyp_end_idx - c.hyp_start_idx)
            for c in chunks
            if c.type != "equal"
        )
        for chunks in output.alignments
    ]
    return Counts(np.array(errors), np.array([len(units) for units in expected]))


def rate(counts: Counts) -> dict[str, Any]:
    """Return an error rate with its 95 % interval, by bootstrap over utterances.

    Percentile bootstrap: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
    performance evaluation", ICASSP 2004.

    Returns:
        `errors`, `units`, `rate` and `interval`, the latter two in per cent; `interval` is None
        where there are no errors or fewer than two utterances to resample. References without
        any unit count as one.
    """
    units = int(counts.units.sum())
    return {
        "errors": int(counts.errors.sum()),
        "units": units,
        "rate": float(_per_cent(counts.errors, counts.units)),
        "interval": _interval((counts.errors, counts.units), _per_cent),
    }


def difference(counts: Counts, baseline: Counts) -> dict[str, Any]:
    """Return how much an error rate lies above another on the same utterances, in points.

    The interval is paired: each resampling takes the same utterances for both, so that it tells
    whether the two differ even where the audio is too little to know either rate well.

    Args:
        counts: of a variant.
        baseline: of the float model, with the same utterances in the same order.

    Returns:
        `points` and `interval`, which is None where no utterance differs.
    """
    data = (counts.errors - baseline.errors, counts.units)
    return {"points": float(_per_cent(*data)), "interval": _interval(data, _per_cent)}


def share(same: Sequence[bool]) -> dict[str, Any]:
    """Return in how many utterances the text is the same, with Wilson's 95 % interval.

    Returns:
        `same`, `utterances`, `share` and `interval`, the latter two in per cent.
    """
    if not same:
        return {"same": 0, "utterances": 0, "share": None, "interval": None}
    from scipy.stats import binomtest  # takes longer than most jobs that only need the rates

    test = binomtest(sum(same), len(same)).proportion_ci(method="wilson")
    return {
        "same": sum(same),
        "utterances": len(same),
        "share": 100 * sum(same) / len(same),
        "interval": [100 * test.low, 100 * test.high],
    }


def marked(reference: str, hypothesis: str) -> list[tuple[str, str]]:
    """Return a hypothesis in pieces, with what differs from the reference marked.

    Returns:
        Pairs of a kind (`equal`, `substitute`, `insert`, `delete`) and words; those of a deletion
        are the reference's.
    """
    expected, got = vocabulary.words(reference), vocabulary.words(hypothesis)
    (chunks,) = jiwer.process_words([" ".join(expected)], [" ".join(got)]).alignments
    pieces = []
    for chunk in chunks:
        words = got[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "delete":
            words = expected[chunk.ref_start_idx : chunk.ref_end_idx]
        pieces.append((chunk.type, " ".join(words)))
    return pieces


def score(texts: Mapping[str, Mapping[str, str]], references: Mapping[str, str]) -> dict[str, Any]:
    """Score the texts of all models.

    Args:
        texts: text by utterance id, by model; `FLOAT` must be one of the models.
        references: transcript by utterance id; utterances without one are left out here.

    Returns:
        `unit`, in which the figures at the top are given: `word`, or `character` where most of the
        text is in a script without spaces; `utterances`, how many were decoded; `transcribed`, how
        many of them have a transcript; and by model in `models`:

        - `transcript`: by unit the `rate` against the transcripts, for other models than float
          with its `difference` from float's; None where nothing is transcribed.
        - `float` and `same`, for other models than float: by unit the `rate` against the float
          model's own text, and the `share` of utterances with the very same text.

    Raises:
        UserError: the models' texts are not of the same utterances.
    """
    utterances = sorted(texts[FLOAT])
    for model, found in texts.items():
        if sorted(found) != utterances:
            raise UserError(
                f"the texts of {model} are of other utterances than float's: delete the "
                "folder texts of the results and run again"
            )
    transcribed = [name for name in utterances if references.get(name)]
    spoken = [references[name] for name in transcribed]
    own = [texts[FLOAT][name] for name in utterances]
    models: dict[str, Any] = {}
    baseline: dict[str, Counts] = {}
    for model, found in texts.items():
        figures: dict[str, Any] = {"transcript": None}
        if transcribed:
            figures["transcript"] = {}
            for unit in UNITS:
                counts = count(spoken, [found[name] for name in transcribed], unit)
                figures["transcript"][unit] = rate(counts)
                if model == FLOAT:
                    baseline[unit] = counts
                else:
                    figures["transcript"][unit]["difference"] = difference(counts, baseline[unit])
        if model != FLOAT:
            got = [found[name] for name in utterances]
            figures["float"] = {unit: rate(count(own, got, unit)) for unit in UNITS}
            figures["same"] = share([a == b for a, b in zip(own, got, strict=True)])
        models[model] = figures
    return {
        "unit": unit_of(spoken or own),
        "utterances": len(utterances),
        "transcribed": len(transcribed),
        "models": models,
    }


def unit_of(texts: Iterable[str]) -> str:
    """Return in what errors are counted: in characters where a script has no spaces, or words."""
    return "character" if vocabulary.is_unspaced("".join(texts)) else "word"


def _per_cent(errors: np.ndarray, units: np.ndarray, axis: int = -1) -> Any:
    # Empty references count as one unit, so that what is wrongly inserted there shows.
    return 100 * errors.sum(axis=axis) / np.maximum(units.sum(axis=axis), 1)


def _interval(data: tuple[np.ndarray, ...], statistic: Callable[..., Any]) -> list[float] | None:
    # Where nothing differs, resampling would claim certainty: "0 to 0" from two utterances.
    if len(data[0]) < 2 or not data[0].any():
        return None
    from scipy.stats import bootstrap  # see above

    found = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,  # bounds the memory
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return [float(found.low), float(found.high)]
