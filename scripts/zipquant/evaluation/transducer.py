"""Decoder and joiner as converted: how exact they are, and the text that they make."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model import noise
from zipquant.model.recognizer import load
from zipquant.recognition import decoding
from zipquant.toolkit import platforms
from zipquant.toolkit.platforms import Npu
from zipquant.variants import transducer_rows
from zipquant.variants.transducer import ROWS, SimulatedNetworks

LEAST = {platforms.FLOAT16: 40.0, "int8": 20.0}
"""SQNR (dB) below which a conversion is wrong. Rounding leaves 66 to 68 dB in float16 and 36 dB in
int8 (512 dimensions, 500 tokens); a joiner that does not get the decoder's output has 14 dB, one
that does not get the encoder's 3 dB (the demo model)."""


def verify(
    encoded: Sequence[str | Path],
    tokens: str,
    decoder: str,
    joiner: str,
    npu: Npu,
    joiner_steps: str | Path | None,
    outputs: Mapping[str, str | Path],
) -> None:
    """Compare decoder and joiner in the simulator with onnxruntime, on rows that really occur.

    Args:
        encoded: frame files of the float model's encoder outputs, of audio that is not calibrated
            with.
        tokens: the tokens file.
        decoder: the decoder's ONNX file.
        joiner: the joiner's ONNX file.
        npu: what they are built for, and with.
        joiner_steps: see `SimulatedNetworks`.
        outputs: the JSON file to write for each part: its type, how many `rows` were tried, the
            `sqnr_db` of its output, and of the joiner in which share the best token is the
            `same_argmax`.

    Raises:
        UserError: an output is far off, so that the conversion must be wrong.
    """
    recognizer = load(tokens, decoder, joiner)
    rows = transducer_rows.collect(encoded, recognizer, ROWS)
    exact = decoding.OnnxNetworks(recognizer.decoder, recognizer.joiner)
    simulated = SimulatedNetworks(recognizer.decoder, recognizer.joiner, npu, joiner_steps)
    kinds = {"decoder": platforms.FLOAT16, "joiner": "int8" if joiner_steps else platforms.FLOAT16}
    runs = {"decoder": (exact.decode, simulated.decode), "joiner": (exact.join, simulated.join)}
    for part, (expect, get) in runs.items():
        expected, got = expect(*rows[part]), get(*rows[part])
        found = noise.compare(expected, got)
        figures = {
            "dtype": kinds[part],
            "rows": len(expected),
            "sqnr_db": round(float(noise.sqnr(found["signal"], found["noise"])), 2),
        }
        if part == "joiner":
            same = expected.argmax(axis=1) == got.argmax(axis=1)
            figures["same_argmax"] = round(float(same.mean()), 4)
        # Written in any case: the figures tell more than the error.
        files.write_json(outputs[part], figures)
        print(f"{part}: {figures}")
        check(part, figures)


def check(part: str, figures: Mapping) -> None:
    """Refuse a conversion that rounding cannot explain.

    Args:
        part: `decoder` or `joiner`.
        figures: what `verify` writes of it.

    Raises:
        UserError: its SQNR is below `LEAST`.
    """
    least = LEAST[figures["dtype"]]
    # Written so that not a number is refused too.
    if not figures["sqnr_db"] >= least:
        raise UserError(
            f"the {part} as converted ({figures['dtype']}) is not what it was: {figures['sqnr_db']}"
            f" dB against onnxruntime, where rounding leaves more than {least:.0f} dB. If it is an "
            "int8 joiner, set recognizer.joiner to float16; else please report it, with the log"
        )


def decode_shard(
    best_file: str | Path,
    encoded: Mapping[str, str | Path],
    output: str | Path,
    tokens: str,
    decoder: str,
    joiner: str,
    npu: Npu,
    joiner_steps: str | Path | None = None,
) -> None:
    """Make text of the best variant's encoder outputs, with decoder and joiner in the simulator.

    Args:
        best_file: JSON that names the variant, written by `choice.write`.
        encoded: the frame file of encoder outputs of each variant.
        output: the table to write, see `decoding.read_texts`.
        tokens: the tokens file.
        decoder: the decoder's ONNX file.
        joiner: the joiner's ONNX file.
        npu: what they are built for, and with.
        joiner_steps: see `SimulatedNetworks`.

    Raises:
        UserError: a file is damaged, or the toolkit failed.
    """
    best = files.read_json(best_file)["best"]
    found = load(tokens, decoder, joiner)
    networks = SimulatedNetworks(found.decoder, found.joiner, npu, joiner_steps)
    decoding.decode_shard(encoded[best], output, tokens, networks)
