"""Splitting one folder of audio into what is calibrated with and what is measured with.

A hash of a name decides, so that added or removed audio moves no other file to the other side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zipquant.audio.utterance import Utterance, hash_of

EVALUATION_SHARE = 0.2
"""Share of the audio that is evaluated with, about."""

FEWEST_SPEAKERS = 4
"""Folders from which on whole folders are taken: with fewer, one side would have one voice."""


@dataclass(frozen=True)
class Split:
    """Both sides, and in a few words how they were made.

    Attributes:
        calibration: utterances to calibrate with.
        evaluation: utterances to measure with; none of them is in the other set.
        how: for the user, such as `by folder (2 of 10 folders are evaluated with)`.
    """

    calibration: list[Utterance]
    evaluation: list[Utterance]
    how: str


def split(utterances: Sequence[Utterance]) -> Split:
    """Split utterances by speaker, if their folders tell the speakers apart, else one by one.

    The folder part of an id stands for a speaker. With `FEWEST_SPEAKERS` folders or more, a voice
    that is measured with is not calibrated with.

    Args:
        utterances: at least two.
    """
    folders = sorted({_folder(utterance) for utterance in utterances})
    by_folder = len(folders) >= FEWEST_SPEAKERS
    keys = folders if by_folder else sorted(utterance.id for utterance in utterances)
    drawn = {key for key in keys if hash_of(f"evaluate {key}") < EVALUATION_SHARE * 2**64}
    # Both sides need some.
    ordered = sorted(keys, key=lambda key: hash_of(f"evaluate {key}"))
    drawn = (drawn or {ordered[0]}) - {ordered[-1]}
    sides: tuple[list[Utterance], list[Utterance]] = ([], [])
    for utterance in utterances:
        key = _folder(utterance) if by_folder else utterance.id
        sides[key in drawn].append(utterance)
    unit = "folders" if by_folder else "files"
    how = (
        f"by {'folder' if by_folder else 'file'}: {len(drawn)} of {len(keys)} {unit} are evaluated"
    )
    return Split(*sides, how)


def _folder(utterance: Utterance) -> str:
    return utterance.id.rpartition("/")[0]
