"""Whether a variant is fit for use: by which rules, and how sure the figures are."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from zipquant.phrases import Phrase, say
from zipquant.recognition import error_rates
from zipquant.recognition.error_rates import Counts

METRICS = {"word": "WER", "character": "CER"}

UNMEASURED = ("no chunk", "no text", "no words", "float fails")
"""Why nothing is known of a variant's text, see `Judgement.why`."""

KEYWORDS = "keyword"
"""The unit of what is lost where keywords are looked for."""

MISSED = 0.05
"""Chance that is left that a bound is wrong."""

USELESS = 90.0
"""Error rate (%) of the float model from which nothing can be lost: it recognises nothing."""

MOST_NEEDED = 100_000
"""Above so many utterances no number is named: the loss is as good as the limit."""


class Status(StrEnum):
    """What is known of a variant."""

    FIT = "fit"
    """Within all limits, and the audio is enough to tell."""

    NOT_SHOWN = "not shown"
    """Within all limits as measured, but so little audio cannot tell."""

    DOUBTFUL = "doubtful"
    """Beyond the limit as measured, which may be chance."""

    UNFIT = "unfit"
    """Beyond a limit, and not by chance."""

    UNKNOWN = "unknown"
    """Its text was not measured, or there is nothing to measure it by."""


@dataclass(frozen=True)
class Limits:
    """What a variant may lose, the section `verdict` of the settings.

    Attributes:
        most_points_lost: points of error rate, against the float model; None for no limit.
        most_text_changed: error rate (%) against the float model's own text, which counts where
            there are no transcripts; None for no limit.
        least_sqnr: of the encoder output, free-running, in dB; None for no limit.
        most_keywords_lost: points of missed keywords, against the float model, which count in place
            of text where keywords are given; None for no limit.
        most_alarms_gained: false alarms an hour, likewise.
    """

    most_points_lost: float | None
    most_text_changed: float | None
    least_sqnr: float | None
    most_keywords_lost: float | None = None
    most_alarms_gained: float | None = None


@dataclass(frozen=True)
class Loss:
    """What a variant loses in text.

    Attributes:
        points: as measured; points of error rate, or an error rate in per cent.
        low: at least, with 95 % confidence.
        high: at most, likewise.
        utterances: on how many it was measured.
        words: words, characters or keywords of an utterance, on average.
        transcribed: whether it is the difference of two error rates against transcripts; else it
            is the error rate against the float model's own text.
        metric: WER, CER or `KEYWORDS`.
    """

    points: float
    low: float
    high: float
    utterances: int
    words: float
    transcribed: bool
    metric: str


@dataclass(frozen=True)
class Alarms:
    """How many more false alarms a variant gives than the float model.

    Attributes:
        an_hour: as measured.
        low: at least, with 95 % confidence.
        hours: on how much audio it was measured.
    """

    an_hour: float
    low: float
    hours: float


@dataclass(frozen=True)
class Evidence:
    """What was measured of a variant.

    Attributes:
        chunks: of evaluation audio.
        broken_chunks: those in which an output holds NaN or infinity.
        sqnr_db: of the encoder output, free-running; infinite if exact, None if unknown.
        loss: what it loses in text; None where that is not known.
        unmeasured: why it is not: `no text`, `no words` or `float fails`.
        missed: what it loses in keywords; None where none are looked for, or none was said.
        alarms: how often it hears keywords that were not said; None where none are looked for.
    """

    chunks: int
    broken_chunks: int = 0
    sqnr_db: float | None = None
    loss: Loss | None = None
    unmeasured: str = "no text"
    missed: Loss | None = None
    alarms: Alarms | None = None

    @property
    def counted(self) -> Loss | None:
        """The loss that counts: that of keywords, where it is known, else that of text."""
        return self.missed or self.loss


@dataclass(frozen=True)
class Judgement:
    """What the rules say of a variant.

    Attributes:
        status: see `Status`.
        why: the rules that it breaks, `broken`, `sqnr`, `loss` or `alarms`; or what is missing: `no
            chunk`, or what `Evidence.unmeasured` has.
        evidence: what was measured.
        limits: what was allowed.
        needed: about how many utterances would tell; None where the status is not for want of
            audio, or no number of utterances would tell.
    """

    status: Status
    why: tuple[str, ...]
    evidence: Evidence
    limits: Limits
    needed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, which has no infinity."""
        found = asdict(self)
        if found["evidence"]["sqnr_db"] == math.inf:
            found["evidence"]["sqnr_db"] = None
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Judgement":
        """Return what `as_dict` has returned."""
        evidence = dict(found["evidence"])
        for name, kind in (("loss", Loss), ("missed", Loss), ("alarms", Alarms)):
            if evidence[name]:
                evidence[name] = kind(**evidence[name])
        if evidence["sqnr_db"] is None and evidence["chunks"] and not evidence["broken_chunks"]:
            evidence["sqnr_db"] = math.inf
        return cls(
            Status(found["status"]),
            tuple(found["why"]),
            Evidence(**evidence),
            Limits(**found["limits"]),
            found["needed"],
        )


def loss_of(counts: Counts, baseline: Counts, unit: str, transcribed: bool) -> Loss:
    """Return what a variant loses in text, with bounds that hold for few utterances too.

    The bounds are those of the paired bootstrap, widened by what it cannot see. A kind of error
    that no utterance shows may still come up in 3 of n (the rule of three: Hanley and Lippman-Hand,
    "If nothing goes wrong, is everything all right?", JAMA 1983), with an error each. And if all of
    n utterances lose, at least `MISSED` ** (1 / n) of all do (Clopper and Pearson).

    Args:
        counts: of the variant.
        baseline: of the float model, on the same utterances in the same order.
        unit: `word`, `character` or `KEYWORDS`.
        transcribed: whether both are against transcripts.
    """
    found = error_rates.difference(counts, baseline)
    points, count = found["points"], len(counts.units)
    # Without an interval none differs, or there is but one utterance, which may be any.
    low, high = found["interval"] or (points, max(points, 100.0) if points else 0.0)
    words = max(1.0, float(counts.units.mean()))
    return Loss(
        points=points,
        low=min(low, points * MISSED ** (1 / count)) if points > 0 else low,
        high=max(high, unseen(count, words)),
        utterances=count,
        words=words,
        transcribed=transcribed,
        metric=METRICS.get(unit, unit),
    )


def alarms_of(counts: Counts, baseline: Counts) -> Alarms:
    """Return how many more false alarms a variant gives, with the bound of the paired bootstrap.

    Args:
        counts: of the variant: false alarms, and seconds, of each utterance.
        baseline: of the float model, on the same utterances in the same order.
    """
    found = error_rates.difference(counts, baseline)
    # From per cent of seconds to an hour.
    points, low = found["points"], (found["interval"] or [found["points"]])[0]
    return Alarms(36 * points, 36 * low, float(counts.units.sum() / 3600))


def unseen(utterances: int, words: float) -> float:
    """Return the points of error rate that may be lost though no utterance shows it."""
    return 100 * 3 / utterances / words


def judge(evidence: Evidence, limits: Limits) -> Judgement:
    """Return what the rules say of a variant.

    1. NaN or infinity in any output, or an SQNR below `least_sqnr`: unfit.
    2. Text that loses more than the limit, by the lower bound too: unfit; by the measured value
       alone: doubtful.
    3. Text that loses less than the limit, by the upper bound too: fit; by the measured value
       alone: not shown.
    4. Without text nothing is claimed: unknown.
    5. Where keywords are looked for, those that are missed count in place of text. More false
       alarms than the limit make it unfit by the lower bound, doubtful by the measured value. That
       there are no more is not asked to be shown: an alarm an hour takes hours to rule out.

    Args:
        evidence: what was measured.
        limits: what is allowed.
    """
    if not evidence.chunks:
        return Judgement(Status.UNKNOWN, ("no chunk",), evidence, limits)
    loss, limit = evidence.counted, allowed(evidence.counted, limits)
    alarms, most = evidence.alarms, limits.most_alarms_gained
    why = []
    if evidence.broken_chunks:
        why.append("broken")
    elif limits.least_sqnr is not None and not _at_least(evidence.sqnr_db, limits.least_sqnr):
        why.append("sqnr")
    if loss and limit is not None and loss.low > limit:
        why.append("loss")
    if alarms and most is not None and alarms.low > most:
        why.append("alarms")
    if why:
        return Judgement(Status.UNFIT, tuple(why), evidence, limits)
    if loss is None:
        return Judgement(Status.UNKNOWN, (evidence.unmeasured,), evidence, limits)
    if alarms and most is not None and alarms.an_hour > most:
        return Judgement(Status.DOUBTFUL, ("alarms",), evidence, limits)
    if limit is None or loss.high <= limit:
        return Judgement(Status.FIT, (), evidence, limits)
    status = Status.NOT_SHOWN if loss.points <= limit else Status.DOUBTFUL
    return Judgement(status, ("loss",), evidence, limits, needed(loss, limit))


def allowed(loss: Loss | None, limits: Limits) -> float | None:
    """Return the limit that goes with a loss."""
    if loss is None:
        return None
    if loss.metric == KEYWORDS:
        return limits.most_keywords_lost
    return limits.most_points_lost if loss.transcribed else limits.most_text_changed


def needed(loss: Loss, limit: float) -> int | None:
    """Return about how many utterances would tell on which side of a limit a loss lies.

    Bounds come closer with the square root of the number of utterances.

    Returns:
        A number of two digits and zeros, larger than that of `loss`; None for more than
        `MOST_NEEDED`.
    """
    gap = abs(limit - loss.points)
    bound = loss.high if loss.points <= limit else loss.low
    if loss.points <= limit:
        # What the bootstrap has seen; the unseen part shrinks faster, with the number itself.
        bound = max(loss.points, bound if bound > unseen(loss.utterances, loss.words) else 0)
    least = 300 / (loss.words * limit) if limit > 0 and loss.points <= limit else 0
    if gap == 0 or (limit <= 0 and loss.points <= limit):
        return None
    found = max(loss.utterances * ((bound - loss.points) / gap) ** 2, least, loss.utterances + 1)
    step = 10 ** max(0, math.floor(math.log10(found)) - 1)
    rounded = math.ceil(found / step) * step
    return rounded if rounded <= MOST_NEEDED else None


def _at_least(sqnr_db: float | None, least: float) -> bool:
    # Not a number is not enough.
    return sqnr_db is not None and sqnr_db >= least


def reasons(judgement: Judgement) -> list[Phrase]:
    """Return in words what a judgement rests on: phrases that continue the variant's name."""
    evidence, limits = judgement.evidence, judgement.limits
    loss, limit = evidence.counted, allowed(evidence.counted, limits)
    counts = dict(broken=evidence.broken_chunks, chunks=evidence.chunks)
    phrases = {"broken": say("reason.broken", **counts)}
    phrases |= {why: say(f"reason.{why.replace(' ', '-')}") for why in UNMEASURED}
    if evidence.sqnr_db is not None and limits.least_sqnr is not None:
        phrases["sqnr"] = say("reason.sqnr", db=evidence.sqnr_db, least=limits.least_sqnr)
    if loss and limit is not None:
        phrases["loss"] = say("reason.loss", lost=lost(loss), bound=_bound(loss, limit))
    if evidence.alarms and limits.most_alarms_gained is not None:
        gained, most = evidence.alarms.an_hour, limits.most_alarms_gained
        phrases["alarms"] = say("reason.alarms", gained=gained, most=most)
    return [phrases[name] for name in judgement.why if name in phrases]


def lost(loss: Loss) -> Phrase:
    """Return a loss in words: a phrase that continues the variant's name."""
    if loss.metric == KEYWORDS:
        of = "said" if loss.transcribed else "heard"
        if round(loss.points, 1) <= 0:
            return say(f"missed.none-{of}")
        return say(f"missed.more-{of}", points=loss.points)
    if not loss.transcribed:
        return say("lost.text", points=loss.points, metric=loss.metric)
    if round(loss.points, 1) == 0:
        return say("lost.none", metric=loss.metric)
    if loss.points < 0:
        return say("lost.less", points=-loss.points, metric=loss.metric)
    return say("lost.more", points=loss.points, metric=loss.metric)


def _bound(loss: Loss, limit: float) -> Phrase:
    in_points = loss.transcribed or loss.metric == KEYWORDS
    return say("bound.points", count=limit) if in_points else say("bound.text", limit=limit)
