"""The only module that knows rknn-toolkit2: builds .rknn files, and simulates what was built.

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
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
from rknn.api import RKNN

from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import files
from zipquant.model import counters
from zipquant.model.contract import Contract, Tensor
from zipquant.model.recognizer import Part
from zipquant.toolkit import rknn_file
from zipquant.toolkit.compiler_log import LOG_LEVEL
from zipquant.toolkit.platforms import Scheme
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
    if not scheme.in_two_steps:
        rknn = _build_at_once(model, contract, dataset, scheme)
    else:
        rknn = _load_encoder(model, contract, scheme)
        _step1(rknn, dataset, work / TOOLKIT, float16)
        rknn = _step2(work / TOOLKIT)
    _export(rknn, work / ENCODER)
    rknn.release()


class _BuiltEncoder:
    """A built encoder that the toolkit runs; one utterance at a time."""

    def __init__(self, rknn: RKNN, contract: Contract):
        self._rknn = rknn
        # Without it the toolkit takes 4-D states as NHWC.
        self._layout = ["nchw"] * len(contract.inputs)
        self._states = contract.states

    def run(
        self, x: np.ndarray, states: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Run one chunk of one utterance; see `streaming.Encoder.run`."""
        # Counters of 32 bits have become such of 64 in the build.
        wide = [s.astype(np.int64) if s.dtype == np.int32 else s for s in states]
        outputs = self._rknn.inference(inputs=[x, *wide], data_format=self._layout)
        if outputs is None:
            raise _inference_failed()
        encoder_out, *new_states = outputs
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
        work = work.resolve()
        if not scheme.in_two_steps:
            rknn = _build_at_once(model, contract, work / TOOLKIT / DATASET, scheme)
        else:
            rknn = _step2(work / TOOLKIT)
        _run(rknn.init_runtime)
        super().__init__(rknn, contract)


class Board(_BuiltEncoder):
    """A built encoder on a board that is connected to this machine.

    Args:
        path: the encoder's .rknn file.
        contract: its contract.
        target: the board's platform, the one that the file was built for.
        device_id: which board, as `adb devices` names it; None where there is one.

    Raises:
        UserError: the board cannot be reached, or does not take the file.
    """

    def __init__(self, path: Path, contract: Contract, target: str, device_id: str | None):
        rknn = RKNN(verbose=False)
        _run(rknn.load_rknn, str(path))
        try:
            _run(rknn.init_runtime, target=target, device_id=device_id)
        except UserError as error:
            name = f"no {target} board" + (f" '{device_id}'" if device_id else "")
            raise UserError(
                f"{name} can be used: connect it by USB or by 'adb connect', see that 'adb "
                "devices' lists it (evaluation.device_id is its name there), and that rknn_server "
                "runs on it; or set evaluation.target to null for the simulator. The toolkit's "
                f"last words are in the log ({error})"
            ) from None
        super().__init__(rknn, contract)


def quantize_part(
    part: Part, dataset: Path, folder: Path, platform: str, float16: Callable[[Path, Path], None]
) -> None:
    """Make the first step of an int8 decoder or joiner, from which `Network` makes it.

    Args:
        part: the ONNX file and what it takes.
        dataset: dataset.txt of the rows to calibrate with.
        folder: the folder for the first step's files.
        platform: the toolkit's name of the NPU.
        float16: see `build`.

    Raises:
        UserError: the toolkit failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rknn = _load(Path(part.path), part.inputs, None, platform, part.metadata)
    _step1(rknn, dataset, folder.resolve(), float16)


class Network:
    """The decoder or the joiner, which the simulator runs one row at a time.

    Args:
        part: the ONNX file and what it takes.
        platform: the toolkit's name of the NPU.
        steps: the folder that `quantize_part` has filled; None for a float16 model.

    Raises:
        UserError: the toolkit refuses the model.
    """

    def __init__(self, part: Part, platform: str, steps: Path | None = None):
        if steps:
            self._rknn = _step2(steps.resolve())
        else:
            self._rknn = _load(Path(part.path), part.inputs, None, platform, part.metadata)
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
                raise _inference_failed()
            rows.append(outputs[0].reshape(1, -1))
        return np.concatenate(rows)


def _load(
    model: Path,
    inputs: Sequence[Tensor],
    outputs: Sequence[str] | None,
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
    with tempfile.TemporaryDirectory() as folder:
        if any(tensor.dtype == "int32" for tensor in inputs):
            narrow, model = model, Path(folder) / model.name
            counters.widen(narrow, model)
        _run(
            rknn.load_onnx,
            str(model.resolve()),
            inputs=[tensor.name for tensor in inputs],
            # Fixes the batch axis, which the toolkit does not take as a variable.
            input_size_list=[list(tensor.shape) for tensor in inputs],
            # The runtime hands each state on by its position, whatever the order in the ONNX file.
            outputs=list(outputs) if outputs else None,
        )
    return rknn


def _load_encoder(model: Path, contract: Contract, scheme: Scheme) -> RKNN:
    quantization = {
        "quantized_dtype": scheme.dtype,
        "quantized_algorithm": scheme.algorithm,
        "quantized_method": scheme.method,
    }
    return _load(
        model,
        contract.inputs,
        contract.outputs,
        scheme.platform,
        contract.metadata,
        **({} if scheme.is_float16 else quantization),
    )


def _build_at_once(model: Path, contract: Contract, dataset: Path | None, scheme: Scheme) -> RKNN:
    rknn = _load_encoder(model, contract, scheme)
    if scheme.is_float16:
        _run(rknn.build, do_quantization=False)
    else:
        _run(rknn.build, do_quantization=True, dataset=str(dataset.resolve()))
    return rknn


def _export(rknn: RKNN, path: Path) -> None:
    with files.atomic(path) as temporary, _full_disk_told(path.parent):
        _run(rknn.export_rknn, str(temporary))
        if not temporary.is_file() or not rknn_file.is_whole(temporary):
            raise ToolkitError(f"rknn-toolkit2 wrote to {path} what is no .rknn, or half of one")


def _inference_failed() -> UserError:
    return UserError("rknn-toolkit2's inference failed; its last words are in the log")


def _step1(rknn: RKNN, dataset: Path, folder: Path, float16: Callable[[Path, Path], None]) -> None:
    dataset = dataset.resolve()
    # Of an attempt that failed, such as that with another form of the graph.
    for suffix in STEP_FILES:
        for path in folder.glob(f"*{suffix}"):
            path.unlink()
    # The toolkit writes the first step's files into the current directory.
    with chdir(folder), _full_disk_told(folder):
        _run(rknn.hybrid_quantization_step1, dataset=str(dataset))
    rknn.release()
    float16(*(Path(_only(folder, suffix)) for suffix in (".model", ".cfg")))


def _step2(folder: Path) -> RKNN:
    # The toolkit names them after the ONNX file.
    parts = {suffix: _only(folder, suffix) for suffix in STEP_FILES}
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


@contextmanager
def _full_disk_told(folder: Path) -> Iterator[None]:
    """Tell a full disk from a model that the toolkit cannot build: its own codes do not."""
    try:
        yield
    except ToolkitError:
        if files.is_disk_full(folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
        raise


def _run(step: Callable[..., int], *arguments, **options) -> None:
    """Run one step of the toolkit, which reports failures by codes or exceptions."""
    if LOG_LEVEL in os.environ:
        # An earlier step has taken it from the C library's environment, where the compiler looks.
        os.environ[LOG_LEVEL] = os.environ[LOG_LEVEL]
    try:
        code = step(*arguments, **options)
    except Exception as error:
        # The text is the toolkit's own traceback, with the cause in its last line.
        cause = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        raise ToolkitError(f"rknn-toolkit2's {step.__name__} failed: {cause[0].strip()}") from None
    if code != 0:
        raise ToolkitError(f"rknn-toolkit2's {step.__name__} failed; its last words are in the log")
