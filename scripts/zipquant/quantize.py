"""Building a variant: the toolkit called with everything checked before and after."""

import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from zipquant import (
    files,
    hybrid,
    platforms,
    rknn_file,
    rknn_toolkit,
    runtime,
    subset,
    validation,
)
from zipquant.contract import Contract
from zipquant.errors import UserError


def build_variant(
    model: str | Path,
    contract_file: str | Path,
    dataset: str | Path | None,
    work: str | Path,
    platform: str,
    dtype: str,
    algorithm: str = "normal",
    method: str = "channel",
    io_dtype: str = "float16",
    running_mean: str = "float16",
    rows: int | None = None,
    sample: str | Path | None = None,
    context_size: int | None = None,
) -> None:
    """Build one variant of the encoder: `work`/encoder.rknn, and `work`/build.json beside it.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        dataset: dataset.txt of the calibration set; not used for float16.
        work: the variant's folder.
        platform: the NPU, such as `rk3588`.
        dtype: `w8a8`, `w4a16` or `float16`, as far as the platform has it.
        algorithm: `normal`, `kl_divergence`, `mmse` or `gdq`, as far as they go with the type.
        method: `channel`, `layer` or `group32`, as far as they go with the type.
        io_dtype: `float16` or `int8`, the type of the inputs and outputs that are not counters.
        running_mean: `float16` or `int8`, how running means among the states are computed.
        rows: how many rows of the calibration set to take; None for all.
        sample: the table of the set's rows; used with `rows` alone.
        context_size: tokens that the decoder looks back, which sherpa-onnx reads from the encoder's
            metadata; None where there is no decoder.

    Raises:
        UserError: the calibration set is not right, or the toolkit failed.
    """
    contract = Contract.load(contract_file)
    if context_size:
        metadata = contract.metadata | {"context_size": str(context_size)}
        contract = replace(contract, metadata=metadata)
    work = Path(work)
    quantized = dtype != platforms.FLOAT16
    if quantized:
        validation.check(dataset, contract)
        taken = work / rknn_toolkit.TOOLKIT / rknn_toolkit.DATASET
        subset.take(dataset, sample, rows, taken)
    means: dict[str, list[str]] = {}

    def keep_float16(graph_file: Path, config_file: Path) -> None:
        if platforms.keeps_float16(dtype):
            return
        graph = hybrid.Graph(graph_file)
        means.update(graph.running_means())
        kept = graph.borders() if io_dtype == "float16" else []
        if running_mean == "float16":
            kept += [tensor for cone in means.values() for tensor in cone]
        hybrid.set_float16(config_file, kept)

    start = time.monotonic()
    rknn_toolkit.build(
        model=Path(model),
        contract=contract,
        dataset=taken if quantized else None,
        work=work,
        platform=platform,
        dtype=dtype,
        algorithm=algorithm,
        method=method,
        float16=keep_float16,
    )
    seconds = time.monotonic() - start
    rknn = work / "encoder.rknn"
    types = rknn_file.io_types(rknn)
    inputs = [tensor.name for tensor in contract.inputs]
    missing = sorted({*inputs, *contract.outputs} - set(types))
    if missing:
        raise UserError(
            f"{rknn} lacks {', '.join(missing)}: rknn-toolkit2 has dropped inputs or outputs of "
            "the model, so the states cannot be handed on"
        )
    custom_string = rknn_file.custom_string(rknn)
    record = {
        "platform": platform,
        "dtype": dtype,
        **({"algorithm": algorithm, "method": method, "io_dtype": io_dtype} if quantized else {}),
        **({"rows": rows} if rows else {}),
        **({"running_mean": running_mean, "running_means": list(means)} if means else {}),
        "rknn_toolkit2": version("rknn-toolkit2"),
        "model_sha256": contract.sha256,
        "rknn_sha256": files.sha256(rknn),
        "bytes": rknn.stat().st_size,
        "seconds": round(seconds, 1),
        "custom_string": custom_string,
        "refusals": runtime.refusals(types, custom_string),
        "inputs": {name: types[name] for name in inputs},
        "outputs": {name: types[name] for name in contract.outputs},
    }
    files.write_json(work / "build.json", record)
