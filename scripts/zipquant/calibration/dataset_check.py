"""Checking a calibration set, whoever wrote it: dataset.txt and its npy files against the model.

rknn-toolkit2 reports little, and late. Some faults it reports after a long optimisation, by a
traceback that names no row; others it takes without a word and builds a bad model from (NaN
features, wrong types).
"""

import hashlib
import io
import math
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zipquant.audio.utterance import AUDIO_SUFFIXES
from zipquant.board import whisper
from zipquant.errors import UserError
from zipquant.model.contract import Contract, Tensor

ERROR = "error"
"""The toolkit fails, or takes the rows for something else than they are: no model is built."""

WARNING = "warning"
"""A model can be built, but not one that hears on the board what it was calibrated with."""


LOWEST = math.log(np.finfo(np.float32).eps)
"""The least log-mel value, -15.94: kaldi puts the float32 epsilon under the logarithm."""

HIGHEST = 12.0
"""More than samples in [-1, 1] can give: a sine of full scale at the top of the band, pre-emphasis
included, gives (400 * 0.54 * 1.97 / 2) ** 2, whose logarithm is 10.7; a square wave 11.2."""

WHISPER_SPAN = whisper.RANGE / whisper.SCALE
WHISPER_LOWEST = (math.log10(whisper.LEAST) + whisper.SCALE) / whisper.SCALE
"""How far Whisper's features of one chunk spread, 2, and where they end, -1.5."""

HIGHEST_MEAN = -2.0
"""Log-mel values of speech average -10 to -6, of noise at full scale 3."""

SHOWN = 20
"""Problems that a message lists; the others are counted."""


@dataclass(frozen=True)
class Problem:
    """Something wrong with a calibration set.

    Attributes:
        severity: `ERROR` or `WARNING`.
        row: the line of dataset.txt, from 1; None for the set as a whole.
        input: the input's name; None for the row as a whole.
        what: what was found.
        cause: what it means, and what to do. Equal causes are listed once, with the first row.
    """

    severity: str
    row: int | None
    input: str | None
    what: str
    cause: str


@dataclass(frozen=True)
class _Array:
    """What is remembered of one npy file."""

    problems: tuple[tuple[str, str, str], ...] = ()  # severity, what, cause
    digest: str = ""
    zero: bool = False
    mean: float = math.nan


@dataclass
class _Set:
    """What is remembered of all rows."""

    rows: int = 0
    zero_rows: int = 0
    means: list[float] = field(default_factory=list)
    arrays: dict[tuple[str, str], _Array] = field(default_factory=dict)
    contents: dict[tuple[str, ...], int] = field(default_factory=dict)


def find_problems(dataset: str | Path, contract: Contract) -> Iterator[Problem]:
    """Look for everything that can be wrong with a calibration set.

    Arrays are read one at a time, headers before data, and never unpickled.

    Args:
        dataset: dataset.txt: a line for each row, with the paths of as many npy files as the model
            has inputs, in ONNX order, separated by spaces, relative to the file's folder.
        contract: the model's contract.

    Yields:
        The problems, in the order of the rows; those of the set as a whole come last.
    """
    dataset = Path(dataset)
    try:
        lines = dataset.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        yield Problem(
            ERROR,
            None,
            None,
            f"{dataset} cannot be read ({reason})",
            "give the path of dataset.txt",
        )
        return
    seen = _Set()
    for number, line in enumerate(lines, start=1):
        if line.strip():
            seen.rows += 1
            yield from _check_row(dataset.parent, number, line.strip(), contract, seen)
    yield from _check_set(contract, seen)


def check(dataset: str | Path, contract: Contract) -> None:
    """Insist that a calibration set can be built from; print what may harm accuracy as warnings.

    Raises:
        UserError: names rows, inputs, what is wrong and the likely cause.
    """
    found = list(find_problems(dataset, contract))
    for line in describe([problem for problem in found if problem.severity == WARNING]):
        print(line, file=sys.stderr)
    errors = describe([problem for problem in found if problem.severity == ERROR], shown=5)
    if errors:
        raise UserError(f"{dataset}: " + "; ".join(line.removeprefix("error: ") for line in errors))


def describe(problems: Sequence[Problem], shown: int = SHOWN) -> list[str]:
    """Return a line for each different problem, errors first, with the number of rows that have it.

    Args:
        problems: what `find_problems` has found.
        shown: at most so many lines, and one that counts the others.
    """
    groups: dict[tuple, list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.severity, problem.input, problem.cause), []).append(problem)
    lines = []
    for (severity, name, cause), group in sorted(groups.items(), key=lambda g: g[0][0] != ERROR):
        place = severity + ": "
        if group[0].row is not None:
            place += f"row {group[0].row}"
            place += f" (and {len(group) - 1} more rows)" if len(group) > 1 else ""
            place += ", " if name else ": "
        place += f"input '{name}': " if name else ""
        lines.append(f"{place}{group[0].what}: {cause}")
    more = lines[shown:]
    if more:
        severity = more[0].partition(":")[0]
        return [*lines[:shown], f"{severity}: and {len(more)} more problem(s)"]
    return lines


def digest(content: bytes) -> str:
    """Return the hash that stands in the name of an npy file written by Zipquant."""
    return hashlib.blake2b(content, digest_size=10).hexdigest()


def _check_row(
    folder: Path, number: int, line: str, contract: Contract, seen: _Set
) -> Iterator[Problem]:
    paths = line.split()
    if len(paths) != len(contract.inputs) or re.search(r"[\t'\"]|,( |$)", line):
        yield Problem(ERROR, number, None, *_why_not_as_many(folder, line, contract))
        return
    arrays = []
    for tensor, path in zip(contract.inputs, paths, strict=True):
        key = (tensor.name, path)
        if key not in seen.arrays:
            seen.arrays[key] = _read(folder, path, tensor, contract)
        arrays.append(seen.arrays[key])
        for severity, what, cause in arrays[-1].problems:
            yield Problem(severity, number, tensor.name, f"{path} {what}", cause)
    if any(severity == ERROR for array in arrays for severity, _, _ in array.problems):
        return
    seen.means.append(arrays[0].mean)
    content = tuple(array.digest for array in arrays)
    first = seen.contents.setdefault(content, number)
    if first != number:
        yield Problem(
            WARNING,
            number,
            None,
            f"holds the same as row {first}",
            "a row that is there twice adds nothing; a file listed twice, or written twice?",
        )
    yield from _check_states(number, contract, arrays[1:], seen)


def _check_states(
    number: int, contract: Contract, states: Sequence[_Array], seen: _Set
) -> Iterator[Problem]:
    zero = [
        state.tensor.name
        for state, array in zip(contract.states, states, strict=True)
        if array.zero
    ]
    if len(zero) == len(states):
        seen.zero_rows += 1
    elif zero:
        several = f" and {len(zero) - 3} more" if len(zero) > 3 else ""
        yield Problem(
            WARNING,
            number,
            None,
            f"{', '.join(zero[:3])}{several} hold zeros alone, the other states do not",
            "only the first chunk of a stream has zero states, and then all of them are zeros; "
            "were these not handed on from call to call?",
        )


def _check_set(contract: Contract, seen: _Set) -> Iterator[Problem]:
    if not seen.rows:
        yield Problem(
            ERROR,
            None,
            None,
            "there is no row in it",
            f"write one line a row, each with {len(contract.inputs)} paths",
        )
    if seen.zero_rows > seen.rows / 2:
        yield Problem(
            WARNING,
            None,
            None,
            f"{seen.zero_rows} of {seen.rows} rows have states of zeros alone",
            "only the first chunk of a stream has; the toolkit takes the range of each state from "
            "the rows, so record the states that the model really hands on",
        )
    mean = float(np.mean(seen.means)) if seen.means else LOWEST
    if mean > HIGHEST_MEAN and contract.features == "fbank":
        yield Problem(
            WARNING,
            None,
            contract.x.name,
            f"the features average {mean:.1f}",
            "log-mel features of speech average about -9; normalised ones (mean 0), linear "
            "energies or samples beyond [-1, 1] are not what sherpa-onnx feeds to the model",
        )


def _why_not_as_many(folder: Path, line: str, contract: Contract) -> tuple[str, str]:
    """Return what is wrong with a line that is not one path for each input, and the cause."""
    wanted = len(contract.inputs)
    if "\t" in line:
        return "holds a tab", "the toolkit splits rows at spaces alone; replace tabs by spaces"
    if re.search(r"['\"]", line):
        return "holds quotation marks", "the toolkit takes them for a part of the path; no quoting"
    paths = line.split()
    what = f"has {len(paths)} path{'s' if len(paths) > 1 else ''}, the model has {wanted} inputs"
    if "," in line and len(re.split(r"[ ,]+", line.strip(" ,"))) == wanted:
        return (
            "has commas between the paths",
            "the toolkit splits rows at spaces; take the commas out",
        )
    if len(paths) == 1 and paths[0].lower().endswith(AUDIO_SUFFIXES):
        return (
            "names a recording",
            "a list of recordings is no calibration set; give the folder of the recordings, or a "
            "manifest, as audio.calibration, and the workflow makes the set",
        )
    if len(paths) == 1:
        return what, (
            "features alone are no row, every row needs the states too: write all paths of a row "
            "on one line, with spaces between them"
        )
    if len(paths) > wanted and _has_space_in_path(folder, paths):
        return what, "a path with a space in it is split there; rename the file or folder"
    return what, "each row needs one path for each input, in the order of the ONNX file"


def _has_space_in_path(folder: Path, paths: Sequence[str]) -> bool:
    return any(
        os.path.isfile(folder / " ".join(paths[start : start + count]))
        for count in (2, 3, 4)
        for start in range(len(paths) - count + 1)
    )


def _read(folder: Path, path: str, tensor: Tensor, contract: Contract) -> _Array:
    """Check one npy file: header first, then data; nothing of it is executed."""
    location = folder / path
    if os.path.exists(location) and not os.path.isfile(location):
        return _Array(((ERROR, "is no file", "write each array with np.save"),))
    try:
        with open(location, "rb") as file:
            problem = _check_header(file, tensor, contract)
            if problem:
                return _Array(((ERROR, *problem),))
            file.seek(0)
            content = file.read()
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        reason = getattr(error, "strerror", None) or error
        return _Array(((ERROR, f"cannot be read ({reason})", _missing(folder, path)),))
    key = digest(content)
    named = re.search(rf"^{re.escape(tensor.name)}\.([0-9a-f]{{20}})\.npy$", Path(path).name)
    if named and named[1] != key:
        cause = "its name holds the hash of its content; delete the calibration set and run again"
        return _Array(((ERROR, "has been changed since it was written", cause),))
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if np.isnan(array).any():
        cause = "the toolkit takes it and builds a broken model; look at the audio it comes from"
        return _Array(((ERROR, "holds NaN", cause),))
    if not np.isfinite(array).all():
        cause = "the toolkit fails on it; look at the audio it comes from"
        return _Array(((ERROR, "holds infinite values", cause),))
    problems = [*_check_name(path, tensor, contract)]
    if tensor == contract.x:
        problems += (_check_whisper if contract.features == "whisper" else _check_log_mel)(array)
    mean = float(array.mean(dtype=np.float64))
    return _Array(tuple(problems), key, not array.any(), mean)


def _missing(folder: Path, path: str) -> str:
    if os.path.isfile(path) and not os.path.isabs(path):
        return "it is there from the current folder, but paths are relative to dataset.txt"
    return f"paths are relative to the folder of dataset.txt, {folder}"


def _check_header(file, tensor: Tensor, contract: Contract) -> tuple[str, str] | None:
    """Return what is wrong with an npy header, and why; None for the array that is wanted."""
    start = file.read(4)
    file.seek(0)
    if start[:2] == b"PK":
        return "is an npz archive", "the toolkit takes npy files, one array each (np.save)"
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
    except Exception:  # numpy's parser fails in many ways on what is no header
        return "is no npy file", "write each array with np.save"
    if dtype.hasobject:
        return (
            "holds Python objects",
            "such a file runs code when it is loaded and no toolkit should; save a plain array",
        )
    if shape != tensor.shape:
        return (
            f"has the shape {list(shape)}, the model takes {list(tensor.shape)}",
            _why_shape(shape, dtype, tensor, contract),
        )
    if dtype != tensor.dtype:
        return f"is {dtype}, the model takes {tensor.dtype}", _why_dtype(dtype, tensor)
    data = math.prod(shape) * dtype.itemsize
    here = file.tell()
    if file.seek(0, 2) - here < data:
        return "is cut short", "its header promises more data; was the writing interrupted?"
    return None


def _why_shape(shape: tuple[int, ...], dtype: np.dtype, tensor: Tensor, contract: Contract) -> str:
    wanted = tensor.shape
    axis = tensor.batch_axis or 0
    if len(shape) == len(wanted) - 1 and (*shape[:axis], 1, *shape[axis:]) == wanted:
        return f"the batch axis is missing: np.expand_dims(array, {axis})"
    if len(shape) == 4 and len(wanted) == 4 and shape == tuple(wanted[i] for i in (0, 2, 3, 1)):
        return "it is in NHWC order, but calibration rows are as in the ONNX file"
    if len(shape) == len(wanted) and all(
        a == b for i, (a, b) in enumerate(zip(shape, wanted, strict=True)) if i != axis
    ):
        return "a row is one chunk of one stream: a batch of 1"
    if len(shape) == 3 and tensor == contract.x and shape[0] == 1 and shape[2] == wanted[2]:
        return f"a chunk has T = {contract.chunk_frames} frames, no more and no less"
    for other in contract.inputs:
        if other.shape == shape and other.dtype == dtype:
            return f"it fits input '{other.name}': the paths must be in the order of the ONNX file"
    return "was it made for another model?"


def _why_dtype(dtype: np.dtype, tensor: Tensor) -> str:
    if not dtype.isnative:
        return "its bytes are in the other order; save it on this machine's terms"
    if dtype.kind == "f" and tensor.dtype.startswith("float"):
        return f"the toolkit takes it without a word; convert it: array.astype(np.{tensor.dtype})"
    return (
        "the toolkit takes it without a word and misreads the values; integer inputs are counters, "
        "all others are float32"
    )


def _check_name(path: str, tensor: Tensor, contract: Contract) -> Iterator[tuple[str, str, str]]:
    """Notice swapped inputs of one shape by their names, where files are named after inputs."""
    words = set(re.findall(r"\w+", Path(path).name.removesuffix(".npy")))
    named = [other.name for other in contract.inputs if other.name in words]
    if named and tensor.name not in named:
        yield (
            WARNING,
            f"is named after input '{named[0]}'",
            "the paths must be in the order of the ONNX file; were two inputs swapped?",
        )


def _check_whisper(x: np.ndarray) -> Iterator[tuple[str, str, str]]:
    low, high = float(x.min()), float(x.max())
    if high - low > WHISPER_SPAN + 1e-3 or low < WHISPER_LOWEST - 1e-3:
        yield (
            WARNING,
            f"reaches from {low:.2f} to {high:.2f}",
            f"Whisper's features, which this model takes, span at most {WHISPER_SPAN:g} in a chunk "
            f"and end at {WHISPER_LOWEST:g}; were these log-mel features of another kind, or not "
            "normalised?",
        )


def _check_log_mel(x: np.ndarray) -> Iterator[tuple[str, str, str]]:
    low, high = float(x.min()), float(x.max())
    # Rounding of the logarithm differs in the last digit from library to library.
    if low < LOWEST - 1e-3:
        yield (
            WARNING,
            f"reaches down to {low:.2f}",
            f"the runtime's log-mel features end at {LOWEST:.2f}, so another front end made these "
            "(decibels? librosa with a floor of 1e-10?); sherpa-onnx uses kaldi-native-fbank",
        )
    if high > HIGHEST:
        yield (
            WARNING,
            f"reaches up to {high:.2f}",
            f"log-mel features of samples in [-1, 1] stay below {HIGHEST:.0f}; were the samples "
            "integers, or is it no logarithm?",
        )
