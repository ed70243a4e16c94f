"""Building a variant: the toolkit called with everything checked before and after."""

import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from zipquant.calibration import dataset_check
from zipquant.calibration.rows import read_rows
from zipquant.calibration.rows import take as take_rows
from zipquant.errors import ToolkitError
from zipquant.jobs import files
from zipquant.model import counters
from zipquant.model.contract import Contract
from zipquant.model.streaming import OnnxEncoder
from zipquant.recognition import decoding
from zipquant.toolkit import (
    compiler_log,
    layer_table,
    platforms,
    quantized_graph,
    rknn_file,
    rknn_toolkit,
    sherpa_onnx,
)
from zipquant.toolkit.platforms import Npu, Scheme
from zipquant.toolkit.variant_folder import DATASET, ENCODER, LAYERS, TOOLKIT
from zipquant.variants import preparation
from zipquant.variants.histograms import RANGES, Histograms
from zipquant.variants.record import NATIVE_GRAPH, PLAIN_GRAPH, Build


@dataclass(frozen=True)
class Source:
    """What a variant is built from.

    Attributes:
        model: the encoder's ONNX file, as `preparation` leaves it, with the form that the compiler
            likes beside it.
        contract: the file of its contract.
        dataset: dataset.txt of the calibration set; not used for float16.
        sample: the table of the set's rows; used with `Settings.rows` alone.
        context_size: tokens that the decoder looks back, which sherpa-onnx reads from the encoder's
            metadata; None where there is no decoder.
        original: the encoder's ONNX file as configured, which the search compares with.
        features: feature files of the calibration audio, which the search is done on.
        recognizer: `tokens`, and for a transducer `decoder` and `joiner`, for a search with a
            target in words; empty without one.
        board_costs: what layers cost on the user's board, for the search; see `layer_costs.costs`.
        curve: see `float16_choices.Choices`.
    """

    model: str | Path
    contract: str | Path
    dataset: str | Path | None = None
    sample: str | Path | None = None
    context_size: int | None = None
    original: str | Path | None = None
    features: Sequence[str | Path] = ()
    recognizer: Mapping[str, str] = field(default_factory=dict)
    board_costs: Mapping[str, float] | None = None
    curve: bool = True

    @classmethod
    def of_rule(
        cls, inputs, context_size: int | None, board_costs: Mapping[str, float] | None
    ) -> "Source":
        """Return what a rule's inputs are, named as the fields; the recognizer's each by itself."""
        return cls(
            model=inputs.model,
            contract=inputs.contract,
            dataset=inputs.get("dataset"),
            sample=inputs.get("sample"),
            context_size=context_size,
            original=inputs.get("original"),
            features=inputs.get("features", []),
            recognizer={
                name: inputs[name] for name in ("tokens", "decoder", "joiner") if inputs.get(name)
            },
            board_costs=board_costs,
        )


@dataclass(frozen=True)
class Settings:
    """A variant as the configuration has it.

    Attributes:
        dtype: `w8a8`, `w4a16` or `float16`, as far as the platform has it.
        algorithm: `normal`, `kl_divergence`, `mmse` or `gdq`, as far as they go with the type.
        method: `channel`, `layer` or `group32`, as far as they go with the type.
        io_dtype: `float16` or `int8`, the type of the inputs and outputs that are not counters.
        running_mean: `float16` or `int8`, how running means among the states are computed.
        rows: how many rows of the calibration set to take; None for all.
        mixed_precision: the fields of `float16_search.Target`: layers are searched that must stay
            in float16; None for no search.
        npu_native: whether the encoder is built in the form that the compiler makes few layers of,
            where it has one and the toolkit takes it.
    """

    dtype: str
    algorithm: str = "normal"
    method: str = "channel"
    io_dtype: str = "float16"
    running_mean: str = "float16"
    rows: int | None = None
    mixed_precision: Mapping[str, Any] | None = None
    npu_native: bool = True

    @property
    def is_quantized(self) -> bool:
        """Whether anything is."""
        return self.dtype != platforms.FLOAT16


def attempt(work: str | Path, npu: Npu, source: Source, settings: Settings) -> str:
    """Build a variant as `build_variant` does; where the toolkit fails at it, record that instead.

    So one variant's failure does not stop the others. build.json then has a `failure`, one line,
    and there is no encoder.rknn. Rows that are not right are another matter: they are wrong for
    every variant, and still end in an error.

    Args:
        work: the variant's folder, called as the variant.
        npu: see `build_variant`.
        source: see there.
        settings: see there.

    Returns:
        The failure, or nothing: it is not kept, since the next run may have more memory, or another
        toolkit.

    Raises:
        UserError: the calibration set is not right, or a file is damaged.
    """
    work = Path(work)
    try:
        build_variant(work, npu, source, settings)
    except ToolkitError as error:
        # The line that is repeated at the end of the run.
        print(f"error: variant {work.name} could not be built: {error}", file=sys.stderr)
        (work / ENCODER).unlink(missing_ok=True)
        shutil.rmtree(work / TOOLKIT, ignore_errors=True)
        layer_table.empty().write(work / LAYERS)
        (work / TOOLKIT).mkdir(parents=True)
        Build(npu.platform, settings.dtype, failure=str(error)).save(work)
        return f"variant {work.name} could not be built in an earlier run"
    return ""


def build_variant(work: str | Path, npu: Npu, source: Source, settings: Settings) -> Build:
    """Build one variant of the encoder: `work`/encoder.rknn, build.json and layers.tsv beside it.

    The toolkit runs in a process of its own, which it may abort. The folder `work`/toolkit holds
    what the simulator is set up from, and `histograms.RANGES`.

    Args:
        work: the variant's folder.
        npu: what it is built for, and with.
        source: what it is built from.
        settings: how it is quantized.

    Returns:
        What build.json says.

    Raises:
        UserError: the calibration set is not right, or a file is damaged.
        ToolkitError: the toolkit failed.
    """
    work = Path(work)
    contract = Contract.load(source.contract)
    if source.context_size:
        metadata = contract.metadata | {"context_size": str(source.context_size)}
        contract = replace(contract, metadata=metadata)
    if settings.is_quantized:
        dataset_check.check(source.dataset, contract)
        taken = work / TOOLKIT / DATASET
        take_rows(source.dataset, source.sample, settings.rows, taken)
        source = replace(source, dataset=taken)
    overhear = partial(
        compiler_log.overhear,
        _build,
        work=work,
        scheme=Scheme(
            npu.platform, settings.dtype, settings.algorithm, settings.method, npu.toolkit
        ),
        contract=contract,
        settings=settings,
    )
    build, log = _build_either(overhear, source, settings)
    log.table(work / ENCODER).write(work / LAYERS)
    if reason := (build.mixed_precision or {}).get("unavailable"):
        # The line that is repeated at the end of the run.
        print(f"error: no search for float16 layers was made: {reason}", file=sys.stderr)
    build.save(work)
    return build


def _build_either(
    overhear: Callable[..., tuple[Build, compiler_log.Listener]], source: Source, settings: Settings
) -> tuple[Build, compiler_log.Listener]:
    """Build the graph that the compiler likes, or the other where there is none or it fails."""
    reason = None
    if settings.npu_native:
        reason = preparation.why_not_native(source.model)
        if reason is None:
            native = replace(source, model=Path(source.model).with_name(preparation.NATIVE))
            try:
                build, log = overhear(source=native, again=False)
                return replace(build, graph=NATIVE_GRAPH), log
            except ToolkitError as error:
                reason = str(error)
                print(f"warning: built without npu_native, with which {reason}", file=sys.stderr)
    build, log = overhear(source=source)
    return replace(build, graph=PLAIN_GRAPH, plain_because=reason), log


class _Float16Layers:
    """Decides, between the toolkit's two steps, which tensors stay in float16.

    Attributes:
        means: the tensors of each running mean, by its output.
        cumulative_sums: nodes that the toolkit has left as cumulative sums.
        ranges: the calibrated range of each input of the encoder.
        search: what the search for more of them found; None without one.
        int8_macs_share: share of the multiply-accumulates that are left to int8.
    """

    def __init__(self, contract: Contract, source: Source, settings: Settings, platform: str):
        self._contract, self._platform = contract, platform
        self._source = source
        self._settings = settings
        self.means: dict[str, list[str]] = {}
        self.cumulative_sums: list[str] = []
        self.ranges: dict[str, tuple[float, float]] = {}
        self.search: dict[str, Any] | None = None
        self.int8_macs_share: float | None = None

    def enter(self, graph_file: Path, config_file: Path) -> None:
        """Enter them into the configuration that the first step has left; see `rknn_toolkit`."""
        if platforms.keeps_float16(self._settings.dtype):
            return
        graph = quantized_graph.Graph(graph_file)
        self.means = graph.running_means()
        self._check_means()
        self.cumulative_sums = graph.cumulative_sums
        names = [tensor.name for tensor in self._contract.inputs]
        self.ranges = quantized_graph.input_ranges(config_file, names)
        kept = graph.borders() if self._settings.io_dtype == "float16" else []
        if self._settings.running_mean == "float16":
            kept += [tensor for cone in self.means.values() for tensor in cone]
        if self._settings.mixed_precision:
            found = self._search(graph_file, config_file, kept)
            kept += found.pop("float16")
            self.search = found
        self.int8_macs_share = graph.int8_macs_share(kept)
        quantized_graph.set_float16(config_file, kept)

    def _check_means(self) -> None:
        """Refuse a graph in which a running mean of the model is not seen, and would become int8.

        How a version of the toolkit writes one cannot be known before: 2.2.0 has other operators.
        """
        if self._settings.running_mean != "float16":
            return
        known = quantized_graph.Graph(self._source.model).running_means()
        if missing := sorted(known.keys() - self.means):
            raise ToolkitError(
                f"{', '.join(missing)}: running means that cannot be found in the graph of this "
                "version of rknn-toolkit2, so they would be int8; set toolkit to another version, "
                "or running_mean of this variant to int8"
            )

    def _search(self, graph_file: Path, config_file: Path, kept: list[str]) -> dict[str, Any]:
        """Search for further tensors to keep; see `float16_search.search`."""
        # They load PyTorch, which takes longer than what a build without a search does here.
        from zipquant.variants import board_time, float16_search

        files_of_text = self._source.recognizer
        request = float16_search.Request(
            model=self._source.original,
            contract=self._contract,
            features=self._source.features,
            target=float16_search.Target(**self._settings.mixed_precision),
            per_channel=self._settings.method != "layer",
            recognize=decoding.recognizer(**files_of_text) if files_of_text else None,
            price=board_time.price_of(self._platform, self._source.board_costs),
            curve=self._source.curve,
        )
        return float16_search.search(graph_file, config_file, kept, request)


def _build(
    work: Path, scheme: Scheme, contract: Contract, source: Source, settings: Settings
) -> Build:
    """Run the toolkit, and return what build.json says of the result."""
    model, quantized = Path(source.model), settings.is_quantized
    layers = _Float16Layers(contract, source, settings, scheme.platform)
    dataset = Path(source.dataset) if quantized else None
    start = time.monotonic()
    rknn_toolkit.build(model, contract, dataset, work, scheme, layers.enter)
    seconds = time.monotonic() - start
    _write_ranges(work, contract, dataset, layers.ranges)
    types, custom_string = _read_back(work / ENCODER, contract)
    # What the toolkit does to a float16 model cannot be seen, but its counters are float16.
    means = layers.means if quantized else quantized_graph.Graph(model).running_means()
    limit = None
    if means and (not quantized or settings.running_mean == "float16"):
        limit = counters.counter_limit(OnnxEncoder(model, contract), contract)
    return Build(
        platform=scheme.platform,
        dtype=scheme.dtype,
        algorithm=scheme.algorithm if quantized else None,
        method=scheme.method if quantized else None,
        io_dtype=settings.io_dtype if quantized else None,
        rows=settings.rows,
        running_mean=settings.running_mean if layers.means else None,
        running_means=list(layers.means) or None,
        cumulative_sums=layers.cumulative_sums if quantized else None,
        mixed_precision=layers.search,
        int8_macs_share=layers.int8_macs_share,
        stream_limit=limit,
        rknn_toolkit2=scheme.toolkit,
        model_sha256=contract.sha256,
        rknn_sha256=files.sha256(work / ENCODER),
        bytes=(work / ENCODER).stat().st_size,
        seconds=round(seconds, 1),
        custom_string=custom_string,
        refusals=sherpa_onnx.refusals(types, custom_string),
        inputs={tensor.name: types[tensor.name] for tensor in contract.inputs},
        outputs={name: types[name] for name in contract.outputs},
    )


def _write_ranges(
    work: Path, contract: Contract, dataset: Path | None, ranges: Mapping[str, tuple[float, float]]
) -> None:
    """Write the histograms of the rows that a variant was calibrated with; none for float16."""
    calibrated = Histograms.of(ranges) if dataset else Histograms()
    for row in read_rows(dataset, contract) if dataset else ():
        calibrated.add(contract, row)
    calibrated.write(work / TOOLKIT / RANGES)


def _read_back(rknn: Path, contract: Contract) -> tuple[dict[str, str], str]:
    """Return the types of all inputs and outputs, and the metadata, as they stand in an .rknn."""
    types = rknn_file.io_types(rknn)
    inputs = [tensor.name for tensor in contract.inputs]
    missing = sorted({*inputs, *contract.outputs} - set(types))
    if missing:
        raise ToolkitError(
            f"{rknn} lacks {', '.join(missing)}: rknn-toolkit2 has dropped inputs or outputs of "
            "the model, so the states cannot be handed on"
        )
    return types, rknn_file.custom_string(rknn)
