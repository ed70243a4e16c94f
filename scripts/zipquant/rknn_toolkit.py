"""The only module that knows rknn-toolkit2: builds .rknn files, and simulates what was built.

An int8 model is built in the two steps of the toolkit's hybrid quantization. The first leaves the
quantized graph and its parameters as files. What stays in float16 is entered there. The second step
makes from them the .rknn as well as a model that the simulator runs, with no second calibration.
The toolkit cannot simulate an .rknn that was loaded from a file.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from pathlib import Path

import numpy as np
from rknn.api import RKNN

from zipquant import files, rknn_file
from zipquant.contract import Contract, Tensor
from zipquant.errors import UserError
from zipquant.recognizer import Part

TOOLKIT = "toolkit"
"""Folder, beside the .rknn, of the files that the first step of a quantized build leaves."""


def custom_string(metadata: Mapping[str, str]) -> str:
    """Return the metadata as sherpa-onnx's RKNN runtime reads them: `key=value;key=value`.

    The runtime splits at `;` and `=` (csrc/rknn/utils.cc), so entries that hold either are left
    out; none of those that it looks for does.
    """
    entries = {
        key: value
        for key, value in metadata.items()
        if not set(";=") & set(key + value) and key != "comment"
    }
    return ";".join(f"{key}={value}" for key, value in entries.items())


def build(
    model: Path,
    contract: Contract,
    dataset: Path | None,
    work: Path,
    platform: str,
    dtype: str,
    algorithm: str,
    method: str,
    float16: Callable[[Path, Path], None],
) -> None:
    """Build `work`/encoder.rknn with rknn-toolkit2, for a batch of 1.

    Args:
        model: the encoder's ONNX file.
        contract: its contract.
        dataset: dataset.txt of the calibration set; None for a float16 model.
        work: a folder for this build alone; its subfolder `toolkit` keeps the first step's files.
        platform: the toolkit's name of the NPU, such as `rk3588`.
        dtype: `float16`, or the toolkit's quantized type such as `w8a8`.
        algorithm: how ranges are chosen: `normal`, `kl_divergence`, `mmse`.
        method: `channel` or `layer`: what shares a scale in the weights.
        float16: is called with the `.model` and the `.cfg` file of the first step, to enter there
            what stays in float16.

    Raises:
        UserError: a step of the toolkit failed.
    """
    work = work.resolve()
    (work / TOOLKIT).mkdir(parents=True, exist_ok=True)
    if dataset:
        dataset = dataset.resolve()
        rknn = _load_encoder(
            model,
            contract,
            platform,
            quantized_dtype=dtype,
            quantized_algorithm=algorithm,
            quantized_method=method,
        )
        # The toolkit writes the first step's files into the current directory.
        with chdir(work / TOOLKIT):
            _run(rknn.hybrid_quantization_step1, dataset=str(dataset))
        rknn.release()
        float16(*(Path(_only(work / TOOLKIT, suffix)) for suffix in (".model", ".cfg")))
        rknn = _step2(work)
    else:
        rknn = _build_float16(model, contract, platform)
    _export(rknn, work / "encoder.rknn")
    rknn.release()


class Simulator:
    """A built encoder in the toolkit's simulator; runs one utterance at a time.

    Args:
        model: the encoder's ONNX file.
        contract: its contract.
        work: the folder that `build` has filled.
        platform: the platform it was built for.
        dtype: the type it was built with.
    """

    def __init__(self, model: Path, contract: Contract, work: Path, platform: str, dtype: str):
        if dtype == "float16":
            self._rknn = _build_float16(model, contract, platform)
        else:
            self._rknn = _step2(work.resolve())
        _run(self._rknn.init_runtime)
        # Without it the toolkit takes 4-D states as NHWC.
        self._layout = ["nchw"] * len(contract.inputs)
        self._states = contract.states

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of one utterance; see `streaming.Encoder.run`."""
        outputs = self._rknn.inference(inputs=[x, *states], data_format=self._layout)
        if outputs is None:
            raise _simulator_failed()
        encoder_out, *new_states = outputs
        return encoder_out, [
            array.astype(state.tensor.dtype, copy=False).reshape(state.tensor.shape)
            for state, array in zip(self._states, new_states, strict=True)
        ]


class Network:
    """The decoder or the joiner as a float16 model, which the simulator runs one row at a time.

    Args:
        part: the ONNX file and what it takes.
        platform: the toolkit's name of the NPU.

    Raises:
        UserError: the toolkit refuses the model.
    """

    def __init__(self, part: Part, platform: str):
        self._rknn = _load(Path(part.path), part.inputs, platform, part.metadata)
        _run(self._rknn.build, do_quantization=False)
        self._running = False

    def export(self, path: str | Path) -> None:
        """Write the .rknn file."""
        _export(self._rknn, Path(path))

    def run(self, *arrays: np.ndarray) -> np.ndarray:
        """Run rows (n, ...) of every input in the simulator, to float32 (n, size)."""
        if not self._running:
            _run(self._rknn.init_runtime)
            self._running = True
        rows = []
        for row in range(len(arrays[0])):
            given = [array[row : row + 1] for array in arrays]
            outputs = self._rknn.inference(inputs=given, data_format=["nchw"] * len(given))
            if outputs is None:
                raise _simulator_failed()
            rows.append(outputs[0].reshape(1, -1))
        return np.concatenate(rows)


def _load(
    model: Path,
    inputs: Sequence[Tensor],
    platform: str,
    metadata: Mapping[str, str],
    **quantization: str,
) -> RKNN:
    rknn = RKNN(verbose=False)
    _run(
        rknn.config,
        target_platform=platform,
        custom_string=custom_string(metadata),
        **quantization,
    )
    _run(
        rknn.load_onnx,
        str(model.resolve()),
        inputs=[tensor.name for tensor in inputs],
        # Fixes the batch axis, which the toolkit does not take as a variable.
        input_size_list=[list(tensor.shape) for tensor in inputs],
    )
    return rknn


def _load_encoder(model: Path, contract: Contract, platform: str, **quantization: str) -> RKNN:
    return _load(model, contract.inputs, platform, contract.metadata, **quantization)


def _build_float16(model: Path, contract: Contract, platform: str) -> RKNN:
    rknn = _load_encoder(model, contract, platform)
    _run(rknn.build, do_quantization=False)
    return rknn


def _export(rknn: RKNN, path: Path) -> None:
    with files.atomic(path) as temporary:
        _run(rknn.export_rknn, str(temporary))
        if not temporary.is_file() or not rknn_file.is_whole(temporary):
            raise UserError(f"rknn-toolkit2 wrote to {path} what is no .rknn, or half of one")


def _simulator_failed() -> UserError:
    return UserError("rknn-toolkit2's simulator failed; its last words are in the log")


def _step2(work: Path) -> RKNN:
    # The toolkit names them after the ONNX file.
    parts = {suffix: _only(work / TOOLKIT, suffix) for suffix in (".model", ".data", ".cfg")}
    # No config() here: the toolkit takes the first step's and refuses another one.
    rknn = RKNN(verbose=False)
    _run(
        rknn.hybrid_quantization_step2,
        model_input=parts[".model"],
        data_input=parts[".data"],
        model_quantization_cfg=parts[".cfg"],
    )
    return rknn


def _only(folder: Path, suffix: str) -> str:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) != 1:
        raise UserError(
            f"{folder} holds {len(found)} {suffix} files where the toolkit leaves one: delete the "
            "variant's folder and run again"
        )
    return str(found[0])


def _run(step: Callable[..., int], *arguments, **options) -> None:
    """Run one step of the toolkit, which tells of failures by codes or exceptions."""
    try:
        code = step(*arguments, **options)
    except Exception as error:
        # The text is the toolkit's own traceback, with the cause in its last line.
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise UserError(f"rknn-toolkit2's {step.__name__} failed: {cause[0].strip()}") from None
    if code != 0:
        raise UserError(f"rknn-toolkit2's {step.__name__} failed; its last words are in the log")
