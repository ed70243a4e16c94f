"""Rewriting the encoder's graph before the toolkit sees it, with proof that nothing has changed."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from zipquant.calibration.rows import read_rows
from zipquant.errors import UserError
from zipquant.jobs import files
from zipquant.model.contract import Contract
from zipquant.model.streaming import OnnxEncoder
from zipquant.rewrites import equality, npu_native
from zipquant.rewrites.equality import TOLERANCE, error

NATIVE = "native.onnx"
"""The encoder in the form that the compiler likes, beside the one that is merely prepared."""

VERDICT = "native.json"
"""Beside both: whether there is such a form, and why not."""


def fix_batch(model: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """Write a batch of 1 in place of a dynamic one, at every input and output."""
    symbol = None
    if contract.x.batch_axis is not None:
        symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if symbol and dim.dim_param == symbol:
                dim.dim_value = 1
    # What the file says of tensors inside still has the symbol, and follows from the inputs.
    del model.graph.value_info[:]
    return model


def fold_constants(model: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """Compute once what does not depend on the inputs, by onnxruntime's basic optimisations.

    These stay within ONNX's own operators. The fusion of MatMul and Add is left out: it makes a
    Gemm of two axes, with Reshapes around it.

    Raises:
        UserError: onnxruntime refuses the model.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, folded = Path(folder) / "in.onnx", Path(folder) / "out.onnx"
        onnx.save(model, source)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        options.log_severity_level = 3
        try:
            onnxruntime.InferenceSession(
                str(source),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["MatMulAddFusion"],
            )
        except Exception as error:  # onnxruntime's errors share no base class but Exception
            raise UserError(f"onnxruntime cannot load the model: {error}") from None
        result = onnx.load(folded)
    foreign = {node.op_type for node in result.graph.node if node.domain not in ("", "ai.onnx")}
    before = {node.op_type for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign - before:
        raise UserError(
            f"onnxruntime's constant folding made operators of its own ({', '.join(foreign)}), "
            "which the toolkit does not know: set preparation.fold_constants to false"
        )
    # onnxruntime lists every domain that it knows, needed or not, and drops the metadata.
    used = {node.domain for node in result.graph.node} | {""}
    kept = [entry for entry in result.opset_import if entry.domain in used]
    del result.opset_import[:]
    result.opset_import.extend(kept)
    return result


def drop_unused(model: onnx.ModelProto, contract: Contract) -> onnx.ModelProto:
    """Take out Identity nodes, nodes that no output depends on, and weights that none uses."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    same: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = same.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        else:
            nodes.append(node)
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= {name for name in node.input if name} | _captured(node)
            kept.append(node)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    del graph.node[:]
    graph.node.extend(copies)
    weights = [tensor for tensor in graph.initializer if tensor.name in needed]
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in weights]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    return model


REWRITES: dict[str, Callable[[onnx.ModelProto, Contract], onnx.ModelProto]] = {
    "fix_batch": fix_batch,
    "fold_constants": fold_constants,
    "drop_unused": drop_unused,
}
"""All rewrites by the name they have in the configuration, in the order in which they are done."""


def prepare(
    model: str | Path, contract_file: str | Path, rewrites: Mapping[str, bool], output: str | Path
) -> None:
    """Rewrite the encoder; `prove` checks whether it still computes the same.

    Beside the result, `NATIVE` is written, and `VERDICT`: `reason` is why `NATIVE` is no more than
    the same again, null where it is more.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        rewrites: which of `REWRITES` are to be done, by name.
        output: the ONNX file to write; inputs, outputs and metadata are the original's.

    Raises:
        UserError: a rewrite cannot be done.
    """
    contract, output = Contract.load(contract_file), Path(output)
    steps = list(_rewritten(model, contract, rewrites))
    current = steps[-1][1] if steps else onnx.load(model)
    with files.atomic(output) as temporary:
        onnx.save(current, temporary)
    rewritten, reason = native(model, contract)
    with files.atomic(output.with_name(NATIVE)) as temporary:
        onnx.save(current if reason else rewritten, temporary)
    files.write_json(output.with_name(VERDICT), {"reason": reason})


def native(model: str | Path, contract: Contract) -> tuple[onnx.ModelProto, str | None]:
    """Return the encoder in the form that the compiler likes; see `npu_native.rewrite`.

    Args:
        model: the encoder's ONNX file.
        contract: its contract.
    """
    original = onnx.load(model)
    try:
        folded = fold_constants(fix_batch(onnx.load(model), contract), contract)
    except UserError as failure:
        return original, str(failure)
    folded = drop_unused(folded, contract)
    del folded.metadata_props[:]
    folded.metadata_props.extend(original.metadata_props)
    return npu_native.rewrite(folded, contract)


def why_not_native(prepared: str | Path) -> str | None:
    """Return why the encoder has no form that the compiler likes; None where it has one.

    Args:
        prepared: what `prepare` has written, or another ONNX file, which has none.
    """
    verdict = Path(prepared).with_name(VERDICT)
    return files.read_json(verdict)["reason"] if verdict.exists() else "none was prepared"


def prove(
    model: str | Path,
    prepared: str | Path,
    contract_file: str | Path,
    dataset: str | Path,
    rewrites: Mapping[str, bool],
    record_file: str | Path,
) -> None:
    """Prove each rewrite equal to the original, and write what was done.

    Args:
        model: the encoder's ONNX file.
        prepared: what `prepare` has made of it: the result of the last rewrite.
        contract_file: its contract.
        dataset: dataset.txt of the calibration set, whose rows are the proof's inputs.
        rewrites: which of `REWRITES` were done, by name.
        record_file: the JSON file to write: the hash of the result, the number of `rows`, and for
            each rewrite done in `rewrites` the `nodes` and `weights` that it has left, and its
            `error`, see `equality.error`; in `native` the same of `NATIVE`, and the `reason` why it
            is no more than the same again.

    Raises:
        UserError: a rewrite changes what the model computes.
    """
    contract = Contract.load(contract_file)
    rows = list(read_rows(dataset, contract))
    expected = _run(model, contract, rows)
    record: dict[str, Any] = {"rows": len(rows), "tolerance": TOLERANCE, "rewrites": {}}
    last = [name for name in REWRITES if rewrites[name]][-1:]
    with tempfile.TemporaryDirectory() as folder:
        step = Path(folder) / "step.onnx"
        for name, current in _rewritten(model, contract, rewrites):
            onnx.save(current, step)
            made = prepared if [name] == last else step
            found = error(expected, _run(made, contract, rows))
            if not found <= TOLERANCE:
                raise UserError(
                    f"{name} changes what {model} computes: its largest error is {found:.2g} of "
                    f"the largest value, and {TOLERANCE:g} is allowed: set preparation.{name} to "
                    "false"
                )
            record["rewrites"][name] = {
                "nodes": len(current.graph.node),
                "weights": len(current.graph.initializer),
                "error": found,
            }
    record["native"] = _prove_native(model, prepared, contract, rows, expected)
    files.write_json(record_file, {"sha256": files.sha256(prepared), **record})


def _prove_native(
    model: str | Path,
    prepared: str | Path,
    contract: Contract,
    rows: list[list[np.ndarray]],
    expected: list[list[np.ndarray]],
) -> dict[str, Any]:
    """Prove `NATIVE` equal; return what the record says of it."""
    if reason := why_not_native(prepared):
        return {"reason": reason}
    other = Path(prepared).with_name(NATIVE)
    found = error(expected, _run(other, contract, rows))
    allowed = equality.allowed(expected, _run(model, contract, equality.nudged(rows)))
    if not found <= allowed:
        raise UserError(
            f"npu_native changes what {model} computes: its largest error is {found:.2g} of the "
            f"largest value, and {allowed:.2g} is allowed: set npu_native of the variants to false"
        )
    graph = onnx.load(other).graph
    return {
        "reason": None,
        "nodes": len(graph.node),
        "weights": len(graph.initializer),
        "error": found,
        "allowed": allowed,
    }


def _rewritten(
    model: str | Path, contract: Contract, rewrites: Mapping[str, bool]
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield the name and the result of each rewrite that is to be done, one after the other."""
    original, current = onnx.load(model), onnx.load(model)
    for name, rewrite in REWRITES.items():
        if rewrites[name]:
            current = rewrite(current, contract)
            del current.metadata_props[:]
            current.metadata_props.extend(original.metadata_props)
            yield name, current


def _run(
    model: str | Path, contract: Contract, rows: list[list[np.ndarray]]
) -> list[list[np.ndarray]]:
    encoder = OnnxEncoder(model, contract)
    results = []
    for x, *states in rows:
        encoder_out, new_states = encoder.run(x, states)
        results.append([encoder_out, *new_states])
    return results


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that the branches and loops inside a node take from the graph around it."""
    found: set[str] = set()
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            for inner in graph.node:
                found |= set(inner.input) | _captured(inner)
            found |= {value.name for value in graph.output}
    return found
