"""A transducer's decoder and joiner as RKNN models, and decoding with them in the simulator."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zipquant.jobs import files
from zipquant.model.recognizer import Part, load
from zipquant.toolkit import compiler_log, quantized_graph
from zipquant.toolkit.platforms import Npu
from zipquant.toolkit.rknn_toolkit import Network, quantize_part
from zipquant.toolkit.variant_folder import DATASET
from zipquant.variants import transducer_rows

ROWS = 256
"""Rows that an int8 joiner is calibrated with, and that a conversion is tried on."""


class SimulatedNetworks:
    """Decoder and joiner in the toolkit's simulator; see `search.Networks`.

    Args:
        decoder: the decoder.
        joiner: the joiner.
        npu: what they are built for, and with.
        joiner_steps: the folder of `convert` for an int8 joiner; None for a float16 one.

    Raises:
        UserError: the toolkit refuses one of them.
    """

    def __init__(
        self, decoder: Part, joiner: Part, npu: Npu, joiner_steps: str | Path | None = None
    ):
        self.context = decoder.inputs[0].shape[1]
        self._decoder = Network(decoder, npu)
        self._joiner = Network(joiner, npu, Path(joiner_steps) if joiner_steps else None)

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """See `search.Networks.decode`."""
        return self._decoder.run(contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `search.Networks.join`."""
        return self._joiner.run(encoded, decoded)


def convert(
    part: str,
    recognizer_files: Mapping[str, str],
    npu: Npu,
    encoded: Sequence[str | Path],
    steps: str | Path,
    output: str,
    layers: str,
) -> None:
    """Build the decoder or the joiner for the NPU, in a process of its own.

    Args:
        part: `decoder` or `joiner`.
        recognizer_files: the `tokens`, and the ONNX files `decoder` and `joiner`.
        npu: what it is built for, and with.
        encoded: frame files of encoder outputs, to calibrate an int8 joiner with; none of them for
            a float16 model.
        steps: a folder for what the simulator needs of an int8 joiner; empty for a float16 model.
        output: the file to write.
        layers: the table to write of the layers that the NPU runs; see `layer_table`.

    Raises:
        UserError: the files do not belong together, or the toolkit failed.
    """
    recognizer = load(**recognizer_files)
    given, steps = getattr(recognizer, part), Path(steps)
    steps.mkdir(parents=True, exist_ok=True)
    if encoded:
        rows = transducer_rows.collect(encoded, recognizer, ROWS)[part]
        _write_rows(rows, steps)
    made_of = steps if encoded else None
    _, log = compiler_log.overhear(_build, part=given, npu=npu, steps=made_of, output=output)
    log.table(output).write(layers)


def _build(part: Part, npu: Npu, steps: Path | None, output: str) -> None:
    if steps:
        quantize_part(part, steps / DATASET, steps, npu, _keep_borders)
    Network(part, npu, steps).export(output)


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
