"""A transducer's decoder and joiner as RKNN models, and decoding with them in the simulator."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model import noise
from zipquant.model.recognizer import Part, load
from zipquant.recognition import decoding
from zipquant.toolkit import compiler_log, platforms, quantized_graph
from zipquant.toolkit.rknn_toolkit import Network, quantize_part
from zipquant.toolkit.variant_folder import DATASET
from zipquant.variants import transducer_rows

ROWS = 256
"""Rows that an int8 joiner is calibrated with, and that a conversion is tried on."""

LEAST = {platforms.FLOAT16: 40.0, "int8": 20.0}
"""SQNR (dB) below which a conversion is wrong. Rounding leaves 66 to 68 dB in float16 and 36 dB in
int8 (512 dimensions, 500 tokens); a joiner that does not get the decoder's output has 14 dB, one
that does not get the encoder's 3 dB (the demo model)."""


class SimulatedNetworks:
    """Decoder and joiner in the toolkit's simulator; see `search.Networks`.

    Args:
        decoder: the decoder.
        joiner: the joiner.
        platform: the NPU, such as `rk3588`.
        joiner_steps: the folder of `convert` for an int8 joiner; None for a float16 one.

    Raises:
        UserError: the toolkit refuses one of them.
    """

    def __init__(
        self, decoder: Part, joiner: Part, platform: str, joiner_steps: str | Path | None = None
    ):
        self.context = decoder.inputs[0].shape[1]
        self._decoder = Network(decoder, platform)
        self._joiner = Network(joiner, platform, Path(joiner_steps) if joiner_steps else None)

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """See `search.Networks.decode`."""
        return self._decoder.run(contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `search.Networks.join`."""
        return self._joiner.run(encoded, decoded)


def convert(
    part: str,
    tokens: str,
    decoder: str,
    joiner: str,
    platform: str,
    encoded: Sequence[str | Path],
    steps: str | Path,
    output: str,
    layers: str,
) -> None:
    """Build the decoder or the joiner for the NPU, in a process of its own.

    Args:
        part: `decoder` or `joiner`.
        tokens: the tokens file.
        decoder: the decoder's ONNX file.
        joiner: the joiner's ONNX file.
        platform: the NPU, such as `rk3588`.
        encoded: frame files of encoder outputs, to calibrate an int8 joiner with; none of them for
            a float16 model.
        steps: a folder for what the simulator needs of an int8 joiner; empty for a float16 model.
        output: the file to write.
        layers: the table to write of the layers that the NPU runs; see `layer_table`.

    Raises:
        UserError: the files do not belong together, or the toolkit failed.
    """
    recognizer = load(tokens, decoder, joiner)
    given, steps = getattr(recognizer, part), Path(steps)
    steps.mkdir(parents=True, exist_ok=True)
    if encoded:
        rows = transducer_rows.collect(encoded, recognizer, ROWS)[part]
        _write_rows(rows, steps)
    made_of = steps if encoded else None
    _, log = compiler_log.overhear(
        _build, part=given, platform=platform, steps=made_of, output=output
    )
    log.table(output).write(layers)


def verify(
    encoded: Sequence[str | Path],
    tokens: str,
    decoder: str,
    joiner: str,
    platform: str,
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
        platform: the NPU, such as `rk3588`.
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
    simulated = SimulatedNetworks(recognizer.decoder, recognizer.joiner, platform, joiner_steps)
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
    platform: str,
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
        platform: the NPU, such as `rk3588`.
        joiner_steps: see `SimulatedNetworks`.

    Raises:
        UserError: a file is damaged, or the toolkit failed.
    """
    best = files.read_json(best_file)["best"]
    found = load(tokens, decoder, joiner)
    networks = SimulatedNetworks(found.decoder, found.joiner, platform, joiner_steps)
    decoding.decode_shard(encoded[best], output, tokens, networks)


def _build(part: Part, platform: str, steps: Path | None, output: str) -> None:
    if steps:
        quantize_part(part, steps / DATASET, steps, platform, _keep_borders)
    Network(part, platform, steps).export(output)


def _keep_borders(graph_file: Path, config_file: Path) -> None:
    quantized_graph.set_float16(config_file, quantized_graph.Graph(graph_file).borders())


def _write_rows(rows: Sequence[np.ndarray], folder: Path) -> None:
    lines = []
    for number, arrays in enumerate(zip(*rows, strict=True)):
        names = [f"{number}-{position}.npy" for position in range(len(arrays))]
        for name, array in zip(names, arrays, strict=True):
            np.save(folder / name, array[None])
        lines.append(" ".join(names) + "\n")
    files.write_text(folder / DATASET, "".join(lines))
