"""A transducer's decoder and joiner as RKNN models, and decoding with them in the simulator."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from zipquant import decoding, files
from zipquant.recognizer import Part, load
from zipquant.rknn_toolkit import Network


class SimulatedNetworks:
    """Decoder and joiner as float16 models in the toolkit's simulator; see `decoding.Networks`.

    Args:
        decoder: the decoder.
        joiner: the joiner.
        platform: the NPU, such as `rk3588`.

    Raises:
        UserError: the toolkit refuses one of them.
    """

    def __init__(self, decoder: Part, joiner: Part, platform: str):
        self.context = decoder.inputs[0].shape[1]
        self._decoder, self._joiner = (Network(part, platform) for part in (decoder, joiner))

    def decode(self, contexts: np.ndarray) -> np.ndarray:
        """See `decoding.Networks.decode`."""
        return self._decoder.run(contexts)

    def join(self, encoded: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """See `decoding.Networks.join`."""
        return self._joiner.run(encoded, decoded)


def convert(part: str, tokens: str, decoder: str, joiner: str, platform: str, output: str) -> None:
    """Build the decoder or the joiner as a float16 .rknn.

    Args:
        part: `decoder` or `joiner`.
        tokens: the tokens file.
        decoder: the decoder's ONNX file.
        joiner: the joiner's ONNX file.
        platform: the NPU, such as `rk3588`.
        output: the file to write.

    Raises:
        UserError: the files do not belong together, or the toolkit failed.
    """
    Network(getattr(load(tokens, decoder, joiner), part), platform).export(output)


def decode_shard(
    best_file: str | Path,
    encoded: Mapping[str, str | Path],
    output: str | Path,
    tokens: str,
    decoder: str,
    joiner: str,
    platform: str,
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

    Raises:
        UserError: a file is damaged, or the toolkit failed.
    """
    best = files.read_json(best_file)["best"]
    recognizer = load(tokens, decoder, joiner)
    networks = SimulatedNetworks(recognizer.decoder, recognizer.joiner, platform)
    decoding.decode_shard(encoded[best], output, tokens, networks)
