"""Whether the emulation of a variant gives what the toolkit's simulator gives, checked in each run.

Where the emulation makes the figures of an evaluation, it has to: else there is none.

What the search for float16 layers has measured, it has measured in the emulation. Both compute the
same; but sums are added up in another order, which now and then tips a value to the next integer,
and then all that follows until the states have forgotten it.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zipquant.audio.frame_store import FrameReader
from zipquant.errors import UserError
from zipquant.model.contract import Contract
from zipquant.model.noise import channel_means, compare, sqnr
from zipquant.model.streaming import Encoder
from zipquant.variants.emulation import UnknownOperator
from zipquant.variants.opening import open_emulation
from zipquant.variants.search_audio import encode

CHUNKS = 100
"""How many are compared, of whole utterances from the first one on; the emulation takes a second or
two for them."""

TOLERANCE = 0.5
"""Decibels by which the signal to noise ratios of both may differ. Measured, plain and searched,
for the demo's encoder and three exports of icefall: 0.15 over 76 to 79 chunks, 0.4 over 46."""

FEW = 30
"""Fewer chunks may differ by more, by the root of their number: one that tips early in an utterance
changes the rest of it, which has made 0.7 dB over its 10 chunks."""

FINE = 50.0
"""Above this, in dB, there is no int8 left that could be emulated wrongly: the order of sums in
float16 makes the noise. 57.7 and 58.3 dB were measured of one encoder."""

LANES = 8


def check(
    folder: str | Path,
    contract: Contract,
    reference: Encoder,
    features: FrameReader,
    simulated: str | Path,
) -> dict[str, Any] | None:
    """Compare what the emulation and the simulator make of the first utterances of a shard.

    Args:
        folder: the variant's folder.
        contract: the model's contract.
        reference: the float model.
        features: the shard's features.
        simulated: frame file of the simulator's encoder outputs, of the same utterances.

    Returns:
        What `_agreement` returns, and if it does not hold, `problem`, what a reader has to know. Or
        `unavailable`, why there is no emulation. None for a variant that has no int8 to emulate,
        and without any chunk.
    """
    chosen = _first(contract, features.frame_counts)
    if not chosen:
        return None
    try:
        emulated = open_emulation(folder, contract)
        if emulated is None:
            return None
        utterances = [features.frames(position) for position in chosen]
        found = encode(emulated, contract, utterances, LANES)
    except UnknownOperator as unknown:
        return {"unavailable": f"the toolkit's graph holds {unknown}, which is not emulated yet"}
    with FrameReader(simulated) as reader:
        other = [reader.frames(position) for position in chosen]
    agreement = _agreement(contract, reference, utterances, other, found)
    return agreement if agreement["holds"] else agreement | {"problem": _problem(agreement)}


def tie(
    contract: Contract,
    reference: Encoder,
    features: FrameReader,
    simulator: Encoder,
    emulated: Encoder,
) -> dict[str, Any]:
    """Run the first utterances of a shard in the simulator and in the emulation, before the rest.

    Args:
        contract: the model's contract.
        reference: the float model.
        features: the shard's features, with one chunk at least.
        simulator: the variant in the simulator.
        emulated: the variant in the emulation.

    Returns:
        What `_agreement` returns.

    Raises:
        UserError: the emulation gives something else, so that its figures mean nothing.
    """
    utterances = [features.frames(position) for position in _first(contract, features.frame_counts)]
    simulated = encode(simulator, contract, utterances, 1)
    found = encode(emulated, contract, utterances, LANES)
    agreement = _agreement(contract, reference, utterances, simulated, found)
    if not agreement["holds"]:
        raise UserError(
            f"evaluation.engine: the emulation gives {_difference(agreement)}, more than "
            f"{tolerance(agreement['chunks']):.1f} dB apart, so its figures would mean nothing: "
            "set it to simulator"
        )
    return agreement


def _agreement(
    contract: Contract,
    reference: Encoder,
    utterances: Sequence[np.ndarray],
    simulated: Sequence[np.ndarray],
    emulated: Sequence[np.ndarray],
) -> dict[str, Any]:
    """Compare the encoder outputs of the simulator and of the emulation.

    Args:
        contract: the model's contract.
        reference: the float model.
        utterances: features, each float32 (frames, bins).
        simulated: the simulator's encoder outputs, each float32 (frames, dim).
        emulated: the emulation's.

    Returns:
        `utterances` and `chunks` that were compared; `simulated_sqnr_db` and `emulated_sqnr_db`,
        free-running, of the encoder output, None where there is no noise; and `holds`, whether they
        are within `tolerance`.
    """
    expected = encode(reference, contract, utterances, LANES)
    ratios = [_sqnr(expected, encoded) for encoded in (simulated, emulated)]
    chunks = sum(contract.chunk_count(len(frames)) for frames in utterances)
    return {
        "utterances": len(utterances),
        "chunks": chunks,
        "simulated_sqnr_db": ratios[0],
        "emulated_sqnr_db": ratios[1],
        "holds": holds(*ratios, chunks),
    }


def holds(simulated: float | None, emulated: float | None, chunks: int) -> bool:
    """Whether two signal to noise ratios in dB are the same but for chance; None is no noise.

    Where both are above `FINE`, they count as the same.
    """
    if simulated is None or emulated is None:
        return simulated == emulated
    if min(simulated, emulated) > FINE:
        return True
    return abs(emulated - simulated) <= tolerance(chunks)


def tolerance(chunks: int) -> float:
    """Return by how many decibels the ratios may differ over so many chunks."""
    return TOLERANCE * max(1.0, math.sqrt(FEW / chunks))


def _problem(found: dict[str, Any]) -> str:
    return (
        f"the emulation, in which float16 layers are searched, gives {_difference(found)}: the "
        "search may have left the wrong layers in float16"
    )


def _difference(found: dict[str, Any]) -> str:
    simulated, emulated = (
        "no noise" if ratio is None else f"{ratio:.1f} dB"
        for ratio in (found["simulated_sqnr_db"], found["emulated_sqnr_db"])
    )
    return f"{emulated} where the simulator gives {simulated} ({found['chunks']} chunks)"


def _first(contract: Contract, frame_counts: Sequence[int]) -> list[int]:
    """Return the positions of the first utterances that have `CHUNKS` chunks together."""
    chosen, chunks = [], 0
    for position, frames in enumerate(frame_counts):
        count = contract.chunk_count(frames)
        if count and chunks < CHUNKS:
            chosen.append(position)
            chunks += count
    return chosen


def _sqnr(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float | None:
    sums = [compare(a, b, channel_means(a)) for a, b in zip(expected, found, strict=True)]
    signal, noise = (sum(part[key] for part in sums) for key in ("signal", "noise"))
    ratio = float(sqnr(signal, noise))
    return ratio if np.isfinite(ratio) else None
