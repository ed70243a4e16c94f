"""Which utterances there are: a folder or a manifest of audio files, and their split into shards.

The Snakefile imports this module on every start, so it needs nothing but the standard library.
"""

import itertools

from zipquant.audio.manifests import folders, tables
from zipquant.audio.manifests.kinds import kind_of
from zipquant.audio.utterance import AUDIO_SUFFIXES, Utterance, hash_of
from zipquant.errors import UserError


def read(source: str) -> list[Utterance]:
    """List the utterances of a folder (searched recursively) or of a manifest, sorted by id.

    Args:
        source: see `manifests.kinds`.

    Raises:
        UserError: nothing there, no audio in it, a broken manifest, two utterances with one id, or
            one file with two.
    """
    utterances = kind_of(source).read(source)
    if not utterances:
        suffixes = ", ".join(suffix.lstrip(".") for suffix in AUDIO_SUFFIXES[:5])
        odd = [f"; {count} {suffix} file(s) cannot be read" for suffix, count in _odd(source)]
        raise UserError(
            f"no audio found in '{source}': it holds no audio file ({suffixes}, ...){''.join(odd)}"
        )
    utterances.sort(key=lambda utterance: utterance.id)
    for first, second in itertools.pairwise(utterances):
        if first.id == second.id and first.path == second.path:
            raise UserError(
                f"'{source}' has the id '{first.id}' twice, for {first.path}; take one out"
            )
        if first.id == second.id:
            raise UserError(
                f"two files of '{source}' have the id '{first.id}': {first.path} and "
                f"{second.path}; rename one of them"
            )
    return utterances


def remarks(source: str) -> list[str]:
    """Return what a manifest or folder holds that is not used, one line each.

    Raises:
        UserError: it is a broken manifest.
    """
    found = []
    if kind_of(source) is tables and (others := tables.unread(source)):
        found.append(
            f"{source}: of its columns {', '.join(map(repr, others))} none is called 'text', so "
            "the utterances have no transcripts; rename the column that holds them"
        )
    for suffix, count in _odd(source):
        found.append(
            f"{source}: {count} {suffix} file(s) are left out, since they do not say what they "
            "hold, or cannot be read; convert them to wav (raw samples for example by "
            "ffmpeg -f s16le -ar 16000 -ac 1 -i FILE FILE.wav)"
        )
    return found


def passed_over(source: str) -> str:
    """Return in words what a folder holds beside audio and transcripts; nothing if it holds none.

    Such files do no harm; they are counted so that none is passed over without a word.
    """
    counts = folders.others(source) if kind_of(source) is folders else {}
    if not counts:
        return ""
    listed = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    return (
        f"{source}: other files are not looked at ({listed}); to use a manifest among them, give "
        "that file"
    )


def _odd(source: str) -> list[tuple[str, int]]:
    return sorted(folders.passed_over(source).items()) if kind_of(source) is folders else []


def cap(utterances: list[Utterance], most: int) -> list[Utterance]:
    """Return at most `most` of some utterances, drawn by a hash of the id; 0 keeps all.

    A larger cap keeps what a smaller one has drawn.
    """
    if not most:
        return utterances
    drawn = sorted(utterances, key=lambda utterance: hash_of(f"cap {utterance.id}"))[:most]
    return sorted(drawn, key=lambda utterance: utterance.id)


def shard_of(utterance_id: str, shards: int) -> int:
    """Return the shard (0 to `shards` - 1) of an utterance.

    A hash of the id alone, so that added or removed audio never moves any other utterance.
    """
    return hash_of(utterance_id) % shards
