"""Building a variant: the toolkit called with everything checked before and after."""

import time
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from zipquant import files, hybrid, rknn_file, rknn_toolkit, runtime, validation
from zipquant.contract import Contract
from zipquant.errors import UserError
from zipquant.histograms import RANGES, Histograms


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
    context_size: int | None = None,
) -> None:
    """Build one variant of the encoder: `work`/encoder.rknn, and `work`/build.json beside it.

    The folder `work`/toolkit holds what the simulator is set up from, and `histograms.RANGES`.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        dataset: dataset.txt of the calibration set; not used for float16.
        work: the variant's folder.
        platform: the NPU, such as `rk3588`.
        dtype: `w8a8` or `float16`.
        algorithm: `normal`, `kl_divergence` or `mmse`.
        method: `channel` or `layer`.
        io_dtype: `float16` or `int8`, the type of the inputs and outputs that are not counters.
        running_mean: `float16` or `int8`, how running means among the states are computed.
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
    quantized = dtype != "float16"
    if quantized:
        validation.check(dataset, contract)
    means: dict[str, list[str]] = {}
    ranges: dict[str, tuple[float, float]] = {}

    def keep_float16(graph_file: Path, config_file: Path) -> None:
        graph = hybrid.Graph(graph_file)
        means.update(graph.running_means())
        ranges.update(hybrid.input_ranges(config_file, [t.name for t in contract.inputs]))
        kept = graph.borders() if io_dtype == "float16" else []
        if running_mean == "float16":
            kept += [tensor for cone in means.values() for tensor in cone]
        hybrid.set_float16(config_file, kept)

    start = time.monotonic()
    rknn_toolkit.build(
        model=Path(model),
        contract=contract,
        dataset=Path(dataset) if quantized else None,
        work=work,
        platform=platform,
        dtype=dtype,
        algorithm=algorithm,
        method=method,
        float16=keep_float16,
    )
    seconds = time.monotonic() - start
    rows = _count_rows(dataset, contract, ranges) if quantized else Histograms()
    rows.write(work / rknn_toolkit.TOOLKIT / RANGES)
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


def _count_rows(
    dataset: str | Path, contract: Contract, ranges: Mapping[str, tuple[float, float]]
) -> Histograms:
    """Return the histograms of a calibration set, one row in memory at a time."""
    found = Histograms.of(ranges)
    folder = Path(dataset).parent
    for line in Path(dataset).read_text(encoding="utf-8").splitlines():
        if line.strip():
            found.add(contract, [np.load(folder / path) for path in line.split()])
    return found
