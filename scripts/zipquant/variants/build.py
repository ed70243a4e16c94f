"""Building a variant: the toolkit called with everything checked before and after."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from zipquant.calibration import dataset_check
from zipquant.calibration.rows import take as take_rows
from zipquant.errors import ToolkitError
from zipquant.jobs import files, isolation
from zipquant.model import counters
from zipquant.model.contract import Contract
from zipquant.model.streaming import OnnxEncoder
from zipquant.recognition import decoding
from zipquant.toolkit import platforms, quantized_graph, rknn_file, rknn_toolkit, sherpa_onnx
from zipquant.toolkit.rknn_toolkit import ENCODER, TOOLKIT
from zipquant.variants import float16_search as searching
from zipquant.variants import preparation
from zipquant.variants.histograms import RANGES, Histograms

BUILD = "build.json"
"""File of a variant's folder that tells how it was built, or why it could not be."""


def attempt(work: str | Path, platform: str, dtype: str, **arguments) -> None:
    """Build a variant as `build_variant` does; where the toolkit fails at it, record that instead.

    So one variant's failure does not keep the others from being built and compared. build.json then
    has a `failure`, one line, and there is no encoder.rknn. Rows that are not right are another
    matter: they are wrong for every variant, and still end in an error.

    Args:
        work: the variant's folder, called as the variant.
        platform: see `build_variant`.
        dtype: see there.
        arguments: the others of `build_variant`.

    Raises:
        UserError: the calibration set is not right, or a file is damaged.
    """
    work = Path(work)
    try:
        build_variant(work=work, platform=platform, dtype=dtype, **arguments)
    except ToolkitError as error:
        # The line that is repeated at the end of the run.
        print(f"error: variant {work.name} could not be built: {error}", file=sys.stderr)
        (work / ENCODER).unlink(missing_ok=True)
        shutil.rmtree(work / TOOLKIT, ignore_errors=True)
        (work / TOOLKIT).mkdir(parents=True)
        record = {"platform": platform, "dtype": dtype, "failure": str(error)}
        files.write_json(work / BUILD, record)


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
    mixed_precision: Mapping[str, Any] | None = None,
    sample: str | Path | None = None,
    context_size: int | None = None,
    original: str | Path | None = None,
    features: Sequence[str | Path] = (),
    recognizer_files: Mapping[str, str] | None = None,
) -> None:
    """Build one variant of the encoder: `work`/encoder.rknn, and `work`/build.json beside it.

    The toolkit runs in a process of its own, which it may abort. The folder `work`/toolkit holds
    what the simulator is set up from, and `histograms.RANGES`.

    Args:
        model: the encoder's ONNX file, as `preparation` leaves it.
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
        mixed_precision: the fields of `mixed_precision.Target`: layers are searched that must stay
            in float16; None for no search.
        sample: the table of the set's rows; used with `rows` alone.
        context_size: tokens that the decoder looks back, which sherpa-onnx reads from the encoder's
            metadata; None where there is no decoder.
        original: the encoder's ONNX file as configured, which the search compares with.
        features: feature files of the calibration audio, which the search is done on.
        recognizer_files: `tokens`, and for a transducer `decoder` and `joiner`, for a search with a
            target in words.

    Raises:
        UserError: the calibration set is not right, or a file is damaged.
        ToolkitError: the toolkit failed.
    """
    work = Path(work)
    contract = Contract.load(contract_file)
    if context_size:
        metadata = contract.metadata | {"context_size": str(context_size)}
        contract = replace(contract, metadata=metadata)
    if dtype != platforms.FLOAT16:
        dataset_check.check(dataset, contract)
        taken = work / TOOLKIT / rknn_toolkit.DATASET
        take_rows(dataset, sample, rows, taken)
        dataset = taken
    search = None
    if mixed_precision:
        search = partial(
            searching.search,
            model=original,
            contract=contract,
            features=features,
            target=searching.Target(**mixed_precision),
            per_channel=method != "layer",
            recognize=decoding.recognizer(**recognizer_files) if recognizer_files else None,
        )
    record = isolation.call(
        _build,
        model=Path(model),
        contract=contract,
        dataset=dataset,
        work=work,
        platform=platform,
        dtype=dtype,
        algorithm=algorithm,
        method=method,
        rows=rows,
        io_dtype=io_dtype,
        running_mean=running_mean,
        search=search,
    )
    files.write_json(work / BUILD, record)


def _build(
    model: Path,
    contract: Contract,
    dataset: str | Path | None,
    work: Path,
    platform: str,
    dtype: str,
    algorithm: str,
    method: str,
    rows: int | None,
    io_dtype: str,
    running_mean: str,
    search: Callable[..., dict[str, Any]] | None,
) -> dict[str, Any]:
    """Run the toolkit, and return what build.json tells of the result."""
    quantized = dtype != platforms.FLOAT16
    means: dict[str, list[str]] = {}
    left: list[str] = []
    ranges: dict[str, tuple[float, float]] = {}
    precision: dict[str, Any] = {}

    def keep_float16(graph_file: Path, config_file: Path) -> None:
        if platforms.keeps_float16(dtype):
            return
        graph = quantized_graph.Graph(graph_file)
        means.update(graph.running_means())
        left.extend(graph.cumulative_sums)
        ranges.update(quantized_graph.input_ranges(config_file, [t.name for t in contract.inputs]))
        kept = graph.borders() if io_dtype == "float16" else []
        if running_mean == "float16":
            kept += [tensor for cone in means.values() for tensor in cone]
        if search:
            found = search(graph_file, config_file, fixed=kept)
            kept += found.pop("float16")
            precision["mixed_precision"] = found
        precision["int8_macs_share"] = graph.int8_macs_share(kept)
        quantized_graph.set_float16(config_file, kept)

    start = time.monotonic()
    rknn_toolkit.build(
        model=model,
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
    calibrated = Histograms.of(ranges) if quantized else Histograms()
    if quantized:
        for row in preparation.read_rows(dataset, contract):
            calibrated.add(contract, row)
    calibrated.write(work / TOOLKIT / RANGES)
    rknn = work / ENCODER
    types = rknn_file.io_types(rknn)
    inputs = [tensor.name for tensor in contract.inputs]
    missing = sorted({*inputs, *contract.outputs} - set(types))
    if missing:
        raise ToolkitError(
            f"{rknn} lacks {', '.join(missing)}: rknn-toolkit2 has dropped inputs or outputs of "
            "the model, so the states cannot be handed on"
        )
    custom_string = rknn_file.custom_string(rknn)
    # What the toolkit does to a float16 model cannot be seen, but its counters are float16.
    counted = (
        quantized_graph.Graph(model).running_means()
        if not quantized
        else running_mean == "float16" and means
    )
    limit = None
    if counted:
        limit = counters.counter_limit(OnnxEncoder(model, contract), contract)
    return {
        "platform": platform,
        "dtype": dtype,
        **({"algorithm": algorithm, "method": method, "io_dtype": io_dtype} if quantized else {}),
        **({"rows": rows} if rows else {}),
        **({"running_mean": running_mean, "running_means": list(means)} if means else {}),
        **({"cumulative_sums": left} if quantized else {}),
        **precision,
        "stream_limit": limit,
        "rknn_toolkit2": version("rknn-toolkit2"),
        "model_sha256": contract.sha256,
        "rknn_sha256": files.sha256(rknn),
        "bytes": rknn.stat().st_size,
        "seconds": round(seconds, 1),
        "custom_string": custom_string,
        "refusals": sherpa_onnx.refusals(types, custom_string),
        "inputs": {name: types[name] for name in inputs},
        "outputs": {name: types[name] for name in contract.outputs},
    }
