"""Proof that a model turned back into float32 differs from its file by that file's rounding alone.

A quantized file rounds its activations at every call. With this rounding put back in, the restored
model has to compute what the file computes; what differs without it is the file's own rounding.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from zipquant.calibration.rows import read_rows
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model import noise, precision
from zipquant.model.contract import Contract
from zipquant.model.look import look

MARGIN = 6.0
"""dB by which the restored model is nearer to its file once the file's rounding is put back: three
quarters of the difference. What is left are sums in another order, which now and then round to the
other side: measured 9 dB for the demo's encoder on real rows, 33 to 97 dB for icefall's exports."""

EXACT = 60.0
"""SQNR (dB) that is near enough in any case."""

WIDENED = 30.0
"""SQNR (dB) of a model against its file in 16 bits, which computes in 16 bits too: float16 has
about 60 dB, bfloat16 40."""

CONTEXTS = 256
"""Rows of decoder and joiner."""

Rows = Sequence[Mapping[str, np.ndarray]]


def prove(
    contract_file: str | Path,
    dataset: str | Path,
    originals: Mapping[str, str],
    restored: Mapping[str, str],
    record_file: str | Path,
) -> None:
    """Compare the restored parts of a model with their files on real rows.

    Args:
        contract_file: the contract of the restored encoder.
        dataset: dataset.txt of the calibration set.
        originals: the file of each part that was restored, by `encoder`, `decoder`, `joiner`.
        restored: the encoder, and decoder and joiner where there are any, as they are used.
        record_file: the JSON file to write, see `compare`, by part.

    Raises:
        UserError: a restored part does not compute what its file computes.
    """
    contract = Contract.load(contract_file)
    names = [tensor.name for tensor in contract.inputs]
    encoder_rows = [
        dict(zip(names, arrays, strict=True)) for arrays in read_rows(dataset, contract)
    ]
    rows: dict[str, Rows] = {"encoder": encoder_rows}
    if "decoder" in restored:
        rows |= _transducer_rows(restored, encoder_rows)
    record = {}
    for part, original in originals.items():
        record[part] = compare(original, restored[part], rows[part])
        print(f"{part}: {record[part]}")
    files.write_json(record_file, record)
    for part, found in record.items():
        check(part, originals[part], found)


def compare(original: str | Path, restored: str | Path, rows: Rows) -> dict[str, Any]:
    """Return how far a restored model is from its file.

    Args:
        original: the file.
        restored: what was made of it.
        rows: inputs in float32 or integers, by name.

    Returns:
        `precision` and `evidence` of the file, see `precision.Precision`; how many `rows`;
        `sqnr_db` of the first output of the restored model against the file's; and of an int8 file
        `rounded_sqnr_db` of the restored model that rounds as the file does.
    """
    found = look(original).precision
    record = {
        "precision": found.name if found else "float32",
        "evidence": found.evidence if found else "weights in other files",
        "rows": len(rows),
    }
    try:
        expected = run(str(original), rows)
    except Exception as error:  # onnxruntime's errors share no base class but Exception
        return record | {"not_compared": str(error).splitlines()[0][:200]}
    record["sqnr_db"] = _sqnr(expected, run(str(restored), rows))
    if found and found.name == precision.INT8:
        rounded = precision.restore(onnx.load(original), rounding=True)
        # Both without optimisations: these change last bits, and with them which way values round.
        expected = run(str(original), rows, True)
        record["rounded_sqnr_db"] = _sqnr(expected, run(rounded.SerializeToString(), rows, True))
    return record


def check(part: str, original: str | Path, record: Mapping[str, Any]) -> None:
    """Refuse a restored model whose difference to its file is not the file's rounding.

    Raises:
        UserError: it is not, with the figures.
    """
    if "not_compared" in record:
        return
    near, rounded = record["sqnr_db"], record.get("rounded_sqnr_db")
    least = EXACT if record["precision"] == "float32" else WIDENED
    sound = near >= least if rounded is None else rounded >= min(near + MARGIN, EXACT)
    # Written so that not a number is refused too.
    if not sound:
        with_rounding = "" if rounded is None else f", {rounded:.1f} dB with its rounding put back"
        raise UserError(
            f"{original}: the {part} turned back into float32 is not what the file computes: "
            f"{near:.1f} dB{with_rounding}; take the float32 model that it was made of, or please "
            "report it"
        )


def run(model: str | bytes, rows: Rows, as_it_is: bool = False) -> np.ndarray:
    """Return the first output of a model for some rows, float32, stacked.

    Args:
        model: the file, or its content.
        rows: see `compare`.
        as_it_is: do without onnxruntime's optimisations, which take roundings out.
    """
    options = onnxruntime.SessionOptions()
    if as_it_is:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float16)": np.float16, "tensor(double)": np.float64}
    kinds = {entry.name: types.get(entry.type) for entry in session.get_inputs()}
    output = [session.get_outputs()[0].name]
    results = [
        session.run(
            output,
            {n: array.astype(kinds[n]) if kinds[n] else array for n, array in row.items()},
        )[0]
        for row in rows
    ]
    return np.stack(results).astype(np.float32)


def _sqnr(expected: np.ndarray, got: np.ndarray) -> float:
    wide = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    difference = np.square(wide - got.reshape(wide.shape)).sum()
    ratio = float(noise.sqnr(np.square(wide - wide.mean(axis=0)).sum(), difference))
    # JSON has no infinity.
    return round(min(ratio, 200.0), 1)


def _transducer_rows(restored: Mapping[str, str], encoder_rows: Rows) -> dict[str, Rows]:
    """Return rows of decoder and joiner: any tokens, with what the encoder gives of the audio."""
    decoder = onnx.load(restored["decoder"], load_external_data=False).graph
    joiner = onnx.load(restored["joiner"], load_external_data=False).graph
    weights = {tensor.name for graph in (decoder, joiner) for tensor in graph.initializer}
    (tokens,) = (value for value in decoder.input if value.name not in weights)
    context = tokens.type.tensor_type.shape.dim[1].dim_value
    size = joiner.output[0].type.tensor_type.shape.dim[-1].dim_value or 2
    random = np.random.default_rng(0)
    kind = np.int32 if tokens.type.tensor_type.elem_type == onnx.TensorProto.INT32 else np.int64
    contexts = random.integers(0, size, (CONTEXTS, 1, context)).astype(kind)
    decoder_rows = [{tokens.name: row} for row in contexts]
    decoded = run(restored["decoder"], decoder_rows)
    encoded = run(restored["encoder"], encoder_rows)
    frames = encoded.reshape(-1, encoded.shape[-1])
    frames = frames[random.permutation(len(frames))[:CONTEXTS], None]
    first, second = (value.name for value in joiner.input if value.name not in weights)
    pairs = zip(frames, decoded, strict=False)
    return {"decoder": decoder_rows, "joiner": [{first: a, second: b} for a, b in pairs]}
