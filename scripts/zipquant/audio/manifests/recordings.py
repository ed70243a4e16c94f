"""One recording alone."""

import os

from zipquant.audio.manifests.common import stem
from zipquant.audio.utterance import AUDIO_SUFFIXES, Utterance

NAME = "one recording"


def is_kind(source: str) -> bool:
    """Return whether it is an audio file, by its name."""
    return os.path.isfile(source) and source.lower().endswith(AUDIO_SUFFIXES)


def read(source: str) -> list[Utterance]:
    """Return it as an utterance; a long one is cut later (`audio.cut`)."""
    return [Utterance(stem(os.path.basename(source)), source)]
