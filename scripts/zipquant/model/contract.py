"""The model contract: what a streaming encoder takes and gives, read from its ONNX file.

Nothing about Zipformer is hard-coded. Any encoder of the shape "features and states in, encoder
output and new states out" fits; anything else is refused with the reason.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from zipquant.board import whisper
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model import formats, locate, look, precision

DTYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT64: "int64",
    onnx.TensorProto.INT32: "int32",
}
"""The tensor types that streaming encoders have at their borders."""

OPSET = 19
"""The highest ONNX opset that rknn-toolkit2 2.3.2 loads ("Unsupport onnx opset 20, need <= 19!");
from 6 on it takes all."""

UNBUILT = {
    "conv-emformer": 'rknn-toolkit2 cannot build it (2.3.2 ends with "list index (2) out of range")'
}
"""Streaming models that the toolkit does not take, by their `model_type`."""

FEATURES = {"": "fbank", "fbank": "fbank", "whisper": "whisper"}
"""The features that metadata ask for under `feature`, and what they are called here."""

WHISPER_MODELS = ("zipformer2",)
"""Models of which sherpa-onnx 2.0 reads `feature`, by their `model_type`
(csrc/online-zipformer2-transducer-model.cc and csrc/online-zipformer2-ctc-model.cc); the others get
log-mel features whatever stands there."""

RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
RANDOM += ("Bernoulli", "Multinomial")
"""Operators whose output differs from call to call."""

LARGEST = 1 << 28
"""Values of all inputs for one utterance, 1 GB of float32; those of the largest published
Zipformers have half a million."""


@dataclass(frozen=True)
class Tensor:
    """An input of the encoder.

    Attributes:
        name: as in the ONNX file.
        shape: for one utterance, so with 1 on the batch axis.
        dtype: numpy's name of the type.
        batch_axis: which axis counts utterances; None where the model has a fixed batch of 1.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    batch_axis: int | None

    def zeros(self, lanes: int = 1) -> np.ndarray:
        """Return the value that streams begin with, as in sherpa-onnx: zeros, for some lanes."""
        shape = list(self.shape)
        if self.batch_axis is not None:
            shape[self.batch_axis] = lanes
        return np.zeros(shape, dtype=self.dtype)


@dataclass(frozen=True)
class State:
    """A recurrent state: the input that takes it and the output that gives its next value."""

    tensor: Tensor
    next_output: str


@dataclass(frozen=True)
class Contract:
    """All that the workflow knows about an encoder.

    Attributes:
        sha256: hash of the ONNX file's content.
        x: the feature input, shape (1, T, feature bins).
        states: the recurrent states, in the order of the ONNX inputs.
        encoder_out: name of the output that the decoder is fed with.
        chunk_shift: frames from one chunk to the next (`decode_chunk_len` of the metadata).
        metadata: the ONNX file's metadata, as sherpa-onnx reads it.
        encoder_dim: size of one vector of the encoder output, or None where the file does not say.
    """

    sha256: str
    x: Tensor
    states: tuple[State, ...]
    encoder_out: str
    chunk_shift: int
    metadata: dict[str, str]
    encoder_dim: int | None = None

    @property
    def chunk_frames(self) -> int:
        """T: frames that one call of the encoder takes."""
        return self.x.shape[1]

    @property
    def bins(self) -> int:
        """Mel bins of a frame."""
        return self.x.shape[2]

    @property
    def features(self) -> str:
        """The features that it takes: `fbank`, log-mel as in kaldi, or those of `whisper`."""
        kind = FEATURES[self.metadata.get("feature", "")]
        return kind if self.metadata.get("model_type") in WHISPER_MODELS else "fbank"

    def chunk(self, frames: np.ndarray, first: int = 0) -> np.ndarray:
        """Return what the encoder takes for a chunk, float32 (T, bins).

        Whisper's features are normalised chunk by chunk, as sherpa-onnx does it (DecodeStreams in
        csrc/online-recognizer-transducer-impl.h).

        Args:
            frames: frames of an utterance, float32 (frames, bins), see `audio.features`.
            first: the frame that the chunk begins at.
        """
        chunk = frames[first : first + self.chunk_frames]
        return whisper.normalise(chunk) if self.features == "whisper" else chunk

    def noise(self, random: np.random.Generator) -> np.ndarray:
        """Return noise with mean and spread of the features of speech, in the shape of `x`."""
        log_mel = random.normal(-9, 4, self.x.shape).astype(np.float32)
        return whisper.from_natural(log_mel) if self.features == "whisper" else log_mel

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All inputs, in the order of the ONNX file."""
        return (self.x, *(state.tensor for state in self.states))

    @property
    def outputs(self) -> tuple[str, ...]:
        """All outputs: the encoder output, then each state's next value, as in `states`."""
        return (self.encoder_out, *(state.next_output for state in self.states))

    @property
    def takes_lanes(self) -> bool:
        """Whether one call can carry several utterances."""
        return self.x.batch_axis is not None

    def chunk_count(self, frames: int) -> int:
        """Return how many chunks an utterance of `frames` frames has.

        sherpa-onnx decodes while `processed + T < ready` (IsReady in
        csrc/online-recognizer-transducer-impl.h): strictly less, so T frames alone make no chunk.
        """
        return max(0, -(-(frames - self.chunk_frames) // self.chunk_shift))

    def save(self, path: str | Path) -> None:
        """Write the contract as JSON."""
        files.write_json(path, asdict(self))

    @staticmethod
    def load(path: str | Path) -> "Contract":
        """Read a contract that `save` has written."""
        raw = files.read_json(path)
        raw["x"] = _tensor(raw["x"])
        raw["states"] = tuple(
            State(_tensor(state["tensor"]), state["next_output"]) for state in raw["states"]
        )
        return Contract(**raw)


def inspect(
    path: str | Path, state_outputs: Mapping[str, str] | None = None, restore: bool = False
) -> Contract:
    """Read the contract from an ONNX file.

    Args:
        path: the encoder.
        state_outputs: for states whose next value is not called `new_` + input name: the output's
            name by the input's.
        restore: see `load_onnx`.

    Raises:
        UserError: the file is missing, is no ONNX model, or is not a streaming encoder.
    """
    model = load_onnx(path, "model.encoder", restore)
    initialized = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialized]
    outputs = [value.name for value in model.graph.output]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _check_kind(path, model, inputs, outputs, metadata)
    batch = batch_symbol(path, inputs[0])
    if (kind := metadata.get("feature", "")) not in FEATURES:
        known = ", ".join(filter(None, FEATURES))
        raise UserError(
            f"{path}: its metadata ask for features of the kind '{kind[:60]}' (feature), and only "
            f"{known} are known to sherpa-onnx and to Zipquant; export the model again"
        )
    x, *states = [read_tensor(path, value, batch) for value in inputs]
    if len(x.shape) != 3 or x.dtype != "float32":
        raise UserError(
            f"{path}: its first input '{x.name}' is {x.dtype} of shape {list(x.shape)}, but "
            "features are float32 of shape [N, T, bins]"
        )
    chunk_shift = _frames(path, metadata, "decode_chunk_len")
    if _frames(path, metadata, "T") != x.shape[1]:
        raise UserError(
            f"{path}: its metadata say T = {metadata['T']}, but input '{x.name}' takes "
            f"{x.shape[1]} frames; export the model again"
        )
    if not 0 < chunk_shift <= x.shape[1]:
        raise UserError(
            f"{path}: its metadata say decode_chunk_len = {chunk_shift}, which is not between 1 "
            f"and T = {x.shape[1]}; export the model again"
        )
    _check_states(path, [x, *states])
    paired = _pair(path, states, outputs, state_outputs or {})
    dims = model.graph.output[0].type.tensor_type.shape.dim
    encoder_dim = dims[-1].dim_value or None if dims else None
    return Contract(files.sha256(path), x, paired, outputs[0], chunk_shift, metadata, encoder_dim)


def load_onnx(path: str | Path, setting: str, restore: bool = False) -> onnx.ModelProto:
    """Read an ONNX file's graph; external data files, the weights of large models, stay closed.

    Args:
        path: the file.
        setting: the configuration's key that names it, for messages.
        restore: whether a model that is not plain float32 is turned back into it later
            (`precision.restore`); its inputs and outputs are given as they will be then.

    Raises:
        UserError: the file is missing, is no ONNX model, lacks its external data, or is nothing
            that the toolkit can quantize.
    """
    _check_file(Path(path), setting)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise UserError(
            f"{path} is not an ONNX model, or is damaged or not complete ({error}): copy or "
            f"download it again, or set {setting}"
        ) from None
    if not model.graph.node:
        raise UserError(f"{path} is not an ONNX model (it holds no graph): set {setting}")
    if not all(isinstance(n, str) for n in precision.names(model)):
        raise UserError(
            f"{path} is damaged, with names that are not UTF-8: copy or download it again"
        )
    opset = max((e.version for e in model.opset_import if e.domain in ("", "ai.onnx")), default=0)
    if opset > OPSET:
        raise UserError(
            f"{path} has ONNX opset {opset}, and rknn-toolkit2 takes up to {OPSET}: export it "
            "again with opset_version=17"
        )
    for data in precision.external_files(path, model):
        if not data.is_file():
            raise UserError(
                f"{path} has its weights in another file, which is missing: put {data.name} into "
                f"the folder {data.parent}"
            )
    _check_precision(path, model, setting, restore)
    _check_operators(path, model)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type in precision.WIDENED:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return model


def _check_file(path: Path, setting: str) -> None:
    """Refuse what is no file, or a file of another kind."""
    if path.is_dir():
        encoders = locate.encoders_in(path)
        inside = f"holds {locate.shown(encoders)}" if encoders else "holds no encoder"
        raise UserError(
            f"{path} is a folder, not an ONNX file; it {inside}. Set {setting} to a file, or give "
            f"the whole folder as the model, `model: {path}`"
        )
    if not path.is_file():
        folder = path.parent
        names = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
        there = f"; ONNX files in {folder}: {locate.shown(names)}" if names else ""
        relative = (
            ""
            if path.is_absolute()
            else (
                " (a relative path is looked for beside the settings file that has it, then in the "
                f"working directory, {Path.cwd()})"
            )
        )
        raise UserError(f"no model at '{path}'{relative}: set {setting} to an ONNX file{there}")
    if why := formats.why_not_onnx(path):
        raise UserError(f"{path} is not an ONNX model but {why.format(path=path)} ({setting})")


def _check_precision(path: str | Path, model: onnx.ModelProto, setting: str, restore: bool) -> None:
    """Refuse a model that is not plain float32, unless it is to be restored and can be."""
    found = precision.detect(model)
    if found is None or (restore and not found.foreign):
        return
    beside = look.float32_beside(path)
    advice = f"take the float32 file beside it ({setting}: {beside})"
    if not beside and found.foreign:
        advice = "export the model in float32"
    elif not beside:
        advice = (
            "export the model in float32, or set model.restore to true, which turns this file back "
            "into float32"
        )
    raise UserError(
        f"{path} is the {found.name} model ({found.evidence}), and rknn-toolkit2 quantizes float32 "
        f"models alone: {advice}"
    )


def _check_operators(path: str | Path, model: onnx.ModelProto) -> None:
    """Refuse operators that are not ONNX's own, such as those of a file that onnxruntime saved."""
    known = {"", "ai.onnx", *(function.domain for function in model.functions)}
    others = sorted({f"{node.domain}.{node.op_type}" for node in precision.operators(model, known)})
    if others:
        raise UserError(
            f"{path} holds operators that are not ONNX's own, which rknn-toolkit2 does not take "
            f"({', '.join(others[:5])}): take the model as it was exported, before onnxruntime or "
            "another program optimised it"
        )


def batch_symbol(path: str | Path, x: onnx.ValueInfoProto) -> str | None:
    """Return the name of the dynamic batch axis, the first of `x`; None for a fixed batch of 1.

    Raises:
        UserError: the input has no shape, or its batch is fixed at more than 1.
    """
    dims = x.type.tensor_type.shape.dim
    if not dims:
        raise UserError(f"{path}: input '{x.name}' has no shape; export the model again")
    if dims[0].dim_param:
        return dims[0].dim_param
    if dims[0].dim_value != 1:
        raise UserError(
            f"{path}: the batch axis of '{x.name}' is fixed at {dims[0].dim_value}; "
            "export the model with a dynamic batch axis or with a batch of 1"
        )
    return None


def read_tensor(path: str | Path, value: onnx.ValueInfoProto, batch: str | None) -> Tensor:
    """Read what an input of an ONNX file takes.

    Args:
        path: the file, for messages.
        value: the input.
        batch: the name of its batch axis, see `batch_symbol`.

    Raises:
        UserError: a type that Zipquant does not take, or another axis than the batch is dynamic.
    """
    kind = value.type.tensor_type
    if kind.elem_type not in DTYPES:
        names = {number: name for name, number in onnx.TensorProto.DataType.items()}
        name = names.get(kind.elem_type, kind.elem_type)
        raise UserError(
            f"{path}: input '{value.name}' is of type {name}; "
            f"Zipquant takes {', '.join(DTYPES.values())}: export the float32 model"
        )
    shape, batch_axis = [], None
    for axis, dim in enumerate(kind.shape.dim):
        if dim.dim_param and dim.dim_param == batch and batch_axis is None:
            batch_axis = axis
            shape.append(1)
        elif dim.dim_value > 0:
            shape.append(dim.dim_value)
        else:
            raise UserError(
                f"{path}: axis {axis} of input '{value.name}' has no fixed size "
                f"('{dim.dim_param}'); only the batch axis may be dynamic, export the model again"
            )
    if not shape:
        raise UserError(
            f"{path}: input '{value.name}' is a single number without axes, which the toolkit does "
            "not take; export the model again"
        )
    if batch is not None and batch_axis is None:
        raise UserError(
            f"{path}: input '{value.name}' has no batch axis '{batch}', unlike the first input; "
            "export the model again"
        )
    return Tensor(value.name, tuple(shape), DTYPES[kind.elem_type], batch_axis)


def _check_kind(
    path: str | Path,
    model: onnx.ModelProto,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    metadata: Mapping[str, str],
) -> None:
    """Refuse other models than streaming encoders, and those that cannot work, as what they are."""
    advice = "export the model with icefall's export-onnx-streaming script"
    axes = [len(value.type.tensor_type.shape.dim) for value in inputs]
    names = [value.name for value in inputs]
    if axes == [2] or axes == [2, 2]:
        part = "decoder" if axes == [2] else "joiner"
        raise UserError(
            f"{path} is not a streaming encoder but looks like a {part}: set model.encoder to the "
            f"encoder and model.{part} to this file"
        )
    if len(inputs) <= 2 and any(name.endswith(("lens", "length", "lengths")) for name in names):
        raise UserError(
            f"{path} is not a streaming encoder: it takes whole utterances ({', '.join(names)}), "
            f"so it is an offline model; a streaming one takes features and states, {advice}"
        )
    if len(inputs) < 2 or len(outputs) < 2:
        raise UserError(
            f"{path} is not a streaming encoder: it has {len(inputs)} input(s) and {len(outputs)} "
            f"output(s), but a streaming encoder takes features and states; {advice}"
        )
    if metadata.get("model_type") in UNBUILT:
        raise UserError(
            f"{path} is a {metadata['model_type']} model, and {UNBUILT[metadata['model_type']]}; "
            "take a streaming Zipformer, Zipformer2 or LSTM"
        )
    random = [node.op_type for node in precision.all_nodes(model) if node.op_type in RANDOM]
    if random:
        raise UserError(
            f"{path}: its output differs from call to call, because it holds {random[0]}: export "
            "the model in evaluation mode (model.eval())"
        )


def _check_states(path: str | Path, inputs: list[Tensor]) -> None:
    """Refuse what no streaming encoder has: inputs of any size, or named like paths of files."""
    values = sum(math.prod(tensor.shape) for tensor in inputs)
    if values > LARGEST:
        raise UserError(
            f"{path}: its inputs have {values:,} values for each utterance; a streaming encoder "
            f"has fewer than {LARGEST:,}"
        )
    names = [tensor.name for tensor in inputs]
    for name in names:
        # The calibration set has files of these names, in rows that are split at spaces.
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}", name) or names.count(name) > 1:
            raise UserError(
                f"{path}: an input is called '{name[:100]}'; names are made of letters, digits "
                "and _ . : - and used once: rename it, and its output, in the ONNX file"
            )


def _tensor(raw: dict) -> Tensor:
    return Tensor(**{**raw, "shape": tuple(raw["shape"])})


def _frames(path: str | Path, metadata: Mapping[str, str], key: str) -> int:
    try:
        return int(metadata[key])
    except KeyError:
        raise UserError(
            f"{path} is not a streaming encoder that sherpa-onnx would load: its metadata lack "
            f"'{key}'; export the model with icefall's export-onnx-streaming script"
        ) from None
    except ValueError:
        raise UserError(
            f"{path}: '{key}' of its metadata is '{metadata[key]}', no number"
        ) from None


def _pair(
    path: str | Path, states: list[Tensor], outputs: list[str], overrides: Mapping[str, str]
) -> tuple[State, ...]:
    names = [state.name for state in states]
    unknown = [name for name in overrides if name not in names]
    if unknown:
        raise UserError(f"model.state_outputs names '{unknown[0]}', but {path} has no such input")
    free = outputs[1:]
    paired = []
    for state in states:
        output = overrides.get(state.name, f"new_{state.name}")
        if output not in free:
            raise UserError(
                f"{path} is not a streaming encoder: input '{state.name}' has no output "
                f"'{output}' for its next value (unpaired outputs: {', '.join(free) or 'none'}); "
                "if that output has another name, give it in model.state_outputs"
            )
        free.remove(output)
        paired.append(State(state, output))
    if free:
        raise UserError(
            f"{path} is not a streaming encoder: output '{free[0]}' is the next value of no input; "
            "if it is one, give it in model.state_outputs"
        )
    return tuple(paired)
