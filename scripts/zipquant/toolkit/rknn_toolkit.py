"""The only module that uses rknn-toolkit2: builds .rknn files, and simulates what was built.

The toolkit itself is in a process of its own; see `process`.

An int8 model is built in the two steps of the toolkit's hybrid quantization. The first leaves the
quantized graph and its parameters as files. What stays in float16 is entered there. The second step
makes from them the .rknn as well as a model that the simulator runs, with no second calibration.
The toolkit cannot simulate an .rknn that was loaded from a file. The algorithm gdq has no two
steps: it is built at once, and again for the simulator.
"""

import errno
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import files
from zipquant.model import counters
from zipquant.model.contract import Contract, Tensor
from zipquant.model.recognizer import Part
from zipquant.toolkit import rknn_file
from zipquant.toolkit.platforms import Npu, Scheme
from zipquant.toolkit.process import Rknn, Toolkit
from zipquant.toolkit.variant_folder import DATASET, ENCODER, TOOLKIT

STEP_FILES = (".model", ".data", ".cfg")
"""Suffixes of what the first step of a quantized build leaves."""


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
    scheme: Scheme,
    float16: Callable[[Path, Path], None],
) -> None:
    """Build `work`/encoder.rknn with rknn-toolkit2, for a batch of 1.

    Args:
        model: the encoder's ONNX file.
        contract: its contract.
        dataset: dataset.txt of the rows to calibrate with; None for a float16 model.
        work: a folder for this build alone; its subfolder `toolkit` keeps the first step's files.
        scheme: the platform, the type, and how it is quantized.
        float16: is called with the `.model` and the `.cfg` file of the first step, to enter there
            what stays in float16. Not for gdq, which has no two steps, and needs none: what is not
            weights is float16 as it is.

    Raises:
        ToolkitError: a step of the toolkit failed.
    """
    work = work.resolve()
    (work / TOOLKIT).mkdir(parents=True, exist_ok=True)
    with Toolkit(scheme.toolkit) as toolkit:
        if not scheme.in_two_steps:
            rknn = _build_at_once(toolkit, model, contract, dataset, scheme)
        else:
            rknn = _load_encoder(toolkit, model, contract, scheme)
            _step1(rknn, dataset, work / TOOLKIT, float16)
            rknn = _step2(toolkit, work / TOOLKIT)
        _export(rknn, work / ENCODER)


class _BuiltEncoder:
    """A built encoder that the toolkit runs; one utterance at a time."""

    def __init__(self, rknn: Rknn, contract: Contract):
        self._rknn = rknn
        self._states = contract.states

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of one utterance; see `streaming.Encoder.run`."""
        # Counters of 32 bits have become such of 64 in the build.
        wide = [s.astype(np.int64) if s.dtype == np.int32 else s for s in states]
        encoder_out, *new_states = _infer(self._rknn, [x, *wide])
        return encoder_out, [
            array.astype(state.tensor.dtype, copy=False).reshape(state.tensor.shape)
            for state, array in zip(self._states, new_states, strict=True)
        ]


class Simulator(_BuiltEncoder):
    """A built encoder in the toolkit's simulator; runs one utterance at a time.

    Args:
        model: the encoder's ONNX file.
        contract: its contract.
        work: the folder that `build` has filled.
        scheme: what it was built with.

    Raises:
        UserError: the toolkit failed.
    """

    def __init__(self, model: Path, contract: Contract, work: Path, scheme: Scheme):
        work, toolkit = work.resolve(), Toolkit(scheme.toolkit)
        if not scheme.in_two_steps:
            dataset = work / TOOLKIT / DATASET
            rknn = _build_at_once(toolkit, model, contract, dataset, scheme)
        else:
            rknn = _step2(toolkit, work / TOOLKIT)
        rknn.run("init_runtime")
        super().__init__(rknn, contract)


class Board(_BuiltEncoder):
    """A built encoder on a board that is connected to this machine.

    Args:
        path: the encoder's .rknn file.
        contract: its contract.
        npu: what the file was built for, the board's platform, and with.
        device_id: which board, as `adb devices` names it; None where there is one.

    Raises:
        UserError: the board cannot be reached, or does not take the file.
    """

    def __init__(self, path: Path, contract: Contract, npu: Npu, device_id: str | None):
        rknn = Toolkit(npu.toolkit).new()
        rknn.run("load_rknn", str(path))
        try:
            rknn.run("init_runtime", target=npu.platform, device_id=device_id)
        except UserError as error:
            name = f"no {npu.platform} board" + (f" '{device_id}'" if device_id else "")
            raise UserError(
                f"{name} can be used: connect it by USB or by 'adb connect', see that 'adb "
                "devices' lists it (evaluation.device_id is its name there), and that rknn_server "
                "runs on it; or set evaluation.target to null for the simulator. The toolkit's "
                f"last words are in the log ({error})"
            ) from None
        super().__init__(rknn, contract)


def quantize_part(
    part: Part, dataset: Path, folder: Path, npu: Npu, float16: Callable[[Path, Path], None]
) -> None:
    """Make the first step of an int8 decoder or joiner, from which `Network` makes it.

    Args:
        part: the ONNX file and what it takes.
        dataset: dataset.txt of the rows to calibrate with.
        folder: the folder for the first step's files.
        npu: what it is built for, and with.
        float16: see `build`.

    Raises:
        UserError: the toolkit failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Toolkit(npu.toolkit) as toolkit:
        _step1(_load_part(toolkit, part, npu), dataset, folder.resolve(), float16)


class Network:
    """The decoder or the joiner, which the simulator runs one row at a time.

    Args:
        part: the ONNX file and what it takes.
        npu: what it is built for, and with.
        steps: the folder that `quantize_part` has filled; None for a float16 model.

    Raises:
        UserError: the toolkit refuses the model.
    """

    def __init__(self, part: Part, npu: Npu, steps: Path | None = None):
        toolkit = Toolkit(npu.toolkit)
        if steps:
            self._rknn = _step2(toolkit, steps.resolve())
        else:
            self._rknn = _load_part(toolkit, part, npu)
            self._rknn.run("build", do_quantization=False)
        self._running = False

    def export(self, path: str | Path) -> None:
        """Write the .rknn file."""
        _export(self._rknn, Path(path))

    def run(self, *arrays: np.ndarray) -> np.ndarray:
        """Run rows (n, ...) of every input in the simulator, to float32 (n, size)."""
        if not self._running:
            self._rknn.run("init_runtime")
            self._running = True
        rows = []
        for row in range(len(arrays[0])):
            given = [array[row : row + 1] for array in arrays]
            rows.append(_infer(self._rknn, given)[0].reshape(1, -1))
        return np.concatenate(rows)


def _load(
    toolkit: Toolkit,
    model: Path,
    inputs: Sequence[Tensor],
    outputs: Sequence[str] | None,
    platform: str,
    metadata: Mapping[str, str],
    **quantization: str,
) -> Rknn:
    rknn = toolkit.new()
    rknn.run(
        "config",
        target_platform=platform,
        custom_string=custom_string(metadata),
        **quantization,
    )
    with tempfile.TemporaryDirectory() as folder:
        if any(tensor.dtype == "int32" for tensor in inputs):
            narrow, model = model, Path(folder) / model.name
            counters.widen(narrow, model)
        rknn.run(
            "load_onnx",
            str(model.resolve()),
            inputs=[tensor.name for tensor in inputs],
            # Fixes the batch axis, which the toolkit does not take as a variable.
            input_size_list=[list(tensor.shape) for tensor in inputs],
            # The runtime hands each state on by its position, whatever the order in the ONNX file.
            outputs=list(outputs) if outputs else None,
        )
    return rknn


def _load_part(toolkit: Toolkit, part: Part, npu: Npu) -> Rknn:
    return _load(toolkit, Path(part.path), part.inputs, None, npu.platform, part.metadata)


def _load_encoder(toolkit: Toolkit, model: Path, contract: Contract, scheme: Scheme) -> Rknn:
    quantization = {
        "quantized_dtype": scheme.dtype,
        "quantized_algorithm": scheme.algorithm,
        "quantized_method": scheme.method,
    }
    return _load(
        toolkit,
        model,
        contract.inputs,
        contract.outputs,
        scheme.platform,
        contract.metadata,
        **({} if scheme.is_float16 else quantization),
    )


def _build_at_once(
    toolkit: Toolkit, model: Path, contract: Contract, dataset: Path | None, scheme: Scheme
) -> Rknn:
    rknn = _load_encoder(toolkit, model, contract, scheme)
    if scheme.is_float16:
        rknn.run("build", do_quantization=False)
    else:
        rknn.run("build", do_quantization=True, dataset=str(dataset.resolve()))
    return rknn


def _export(rknn: Rknn, path: Path) -> None:
    with files.atomic(path) as temporary, _full_disk_told(path.parent):
        rknn.run("export_rknn", str(temporary))
        if not temporary.is_file() or not rknn_file.is_whole(temporary):
            raise ToolkitError(f"rknn-toolkit2 wrote to {path} what is no .rknn, or half of one")


def _infer(rknn: Rknn, inputs: list[np.ndarray]) -> list[np.ndarray]:
    # Without a layout the toolkit takes 4-D arrays as NHWC.
    return rknn.get("inference", inputs=inputs, data_format=["nchw"] * len(inputs))


def _step1(rknn: Rknn, dataset: Path, folder: Path, float16: Callable[[Path, Path], None]) -> None:
    dataset = dataset.resolve()
    # Of an attempt that failed, such as that with another form of the graph.
    for suffix in STEP_FILES:
        for path in folder.glob(f"*{suffix}"):
            path.unlink()
    # The toolkit writes the first step's files into the current directory.
    with _full_disk_told(folder):
        rknn.run("hybrid_quantization_step1", dataset=str(dataset), folder=folder)
    rknn.release()
    float16(*(Path(_only(folder, suffix)) for suffix in (".model", ".cfg")))


def _step2(toolkit: Toolkit, folder: Path) -> Rknn:
    # The toolkit names them after the ONNX file.
    parts = {suffix: _only(folder, suffix) for suffix in STEP_FILES}
    # No config() here: the toolkit takes the first step's and refuses another one.
    rknn = toolkit.new()
    rknn.run(
        "hybrid_quantization_step2",
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


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Tell a full disk from a model that the toolkit cannot build: its own codes do not."""
    try:
        yield
    except ToolkitError:
        if files.is_disk_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
        raise
