"""Fit the costs of layers on what others have measured on RK3588 boards.

python benchmarks/board_costs.py --work /tmp/board-costs

It exports Zipformers of icefall's default widths, random weights, with 15 and with 8 layers, builds
them (half an hour, 3 GB), and writes `scripts/zipquant/toolkit/layer_costs.json`. What the boards
took stands in `MEASURED`. Folders that are there are taken as they are.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import export
from zipformer import Encoder, Stack, ZipformerConfig
from zipquant.model import contract as contracts
from zipquant.model.streaming import OnnxEncoder
from zipquant.toolkit import compiler_log, layer_costs, rknn_toolkit
from zipquant.toolkit.layer_table import CPU, NPU, Table
from zipquant.toolkit.platforms import Scheme
from zipquant.variants import preparation

FEEDFORWARD = (1024, 1024, 2048, 2048, 1024)
LAYERS = {"15 layers": (2, 4, 3, 2, 4), "8 layers": (1, 2, 2, 1, 2)}
ROWS = 4  # ranges do not matter, only the layers do

SOURCE = "https://github.com/nsbb/rknn-stt, zipformer/rk3588"
MEASURED = {
    "borders_removed": 31.6,
    "borders_removed_float16": 46.2,
    "borders_kept": 39.2,
    "float16_more": 10.0,
    "borders": 8.5,
    "to_cpu": 2.4,
    "seven_layers": 7.6,
    "spread": 0.08,
}
"""In ms, of a 69 M Zipformer on an RK3588 board, one NPU core, runtime 2.3.2, driver 0.9.6."""

MEANING = {
    "borders_removed": "OPTIMIZATION_LOG.md: rknn_run, int8, inputs and outputs in NPU memory, "
    "built with remove_reshape",
    "borders_removed_float16": "OPTIMIZATION_LOG.md, attempt 6: the same in float16",
    "borders_kept": "RESULTS.md: int8 in NPU memory, built without remove_reshape",
    "float16_more": "OPTIMIZATION_LOG.md, attempt 6: 46.2 in float16, 36.2 in int8 on the same "
    "day; RESULTS.md has 63 and 52.7 in another setting",
    "borders": "RESULTS.md: what remove_reshape saves, on 36 inputs and 36 outputs",
    "to_cpu": "OPTIMIZATION_LOG.md, attempt 7: 40 more Reshape and Transpose on the CPU",
    "seven_layers": "README.md: 27.5 with 15 layers, 19.9 with 8, both int8",
    "spread": "2026-03-14_RKNN_OPTIMIZATION_REPORT.md: 32 to 37 by temperature and load",
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Fit the costs of layers on public figures.")
    parser.add_argument("--work", type=Path, required=True, help="folder for models and builds")
    work = parser.parse_args().work.resolve()
    tables = {
        "float16": table(work, "15 layers", "float16"),
        "int8": table(work, "15 layers", "w8a8"),
        "int8, 8 layers": table(work, "8 layers", "w8a8"),
    }
    counts = {name: count(entry) for name, entry in tables.items()}
    found = {
        "spread": {"value": MEASURED["spread"], "where": MEANING["spread"]},
        "platforms": {
            "rk3588": {
                "source": SOURCE,
                "measured_ms": {
                    name: {"value": value, "where": MEANING[name]}
                    for name, value in MEASURED.items()
                    if name != "spread"
                },
                "fitted_on": counts,
                "fits": fits(counts),
            }
        },
    }
    layer_costs.COSTS.write_text(json.dumps(found, indent=1) + "\n")
    for name, entry in tables.items():
        print(name, layer_costs.price(entry, layer_costs.costs("rk3588")))


def table(work: Path, layers: str, dtype: str) -> Table:
    """Export and build a model; return its layers."""
    folder = work / f"{layers}, {dtype}"
    if not (folder / "layers.tsv").exists():
        folder.mkdir(parents=True, exist_ok=True)
        encoder = folder / "encoder.onnx"
        with torch.no_grad():
            export.export_encoder(model(LAYERS[layers]), encoder)
        contract = contracts.inspect(encoder)
        contract.save(folder / "model.json")
        prepared = folder / "prepared.onnx"
        rewrites = dict.fromkeys(preparation.REWRITES, True)
        preparation.prepare(encoder, folder / "model.json", rewrites, prepared)
        _, log = compiler_log.overhear(
            rknn_toolkit.build,
            model=prepared,
            contract=contract,
            dataset=None if dtype == "float16" else rows(folder, prepared, contract),
            work=folder,
            scheme=Scheme("rk3588", dtype),
            float16=lambda graph, config: None,
        )
        log.table(folder / "encoder.rknn").write(folder / "layers.tsv")
    return Table.read(folder / "layers.tsv")


def model(layers: tuple[int, ...]) -> Encoder:
    """Make a Zipformer of icefall's default widths; the demo's has one width for all stacks."""
    torch.manual_seed(1)
    config = replace(ZipformerConfig.large(), layers=layers)
    encoder = Encoder(config)
    for number, width in enumerate(FEEDFORWARD):
        encoder.stacks[number] = Stack(replace(config, feedforward_dim=width), number)
    return encoder.eval()


def rows(folder: Path, encoder: Path, contract: contracts.Contract) -> Path:
    """Write calibration rows of noise with real states; return their dataset.txt."""
    random = np.random.default_rng(0)
    run = OnnxEncoder(encoder, contract).run
    states = [np.zeros(s.tensor.shape, dtype=s.tensor.dtype) for s in contract.states]
    lines = []
    for row in range(ROWS):
        x = random.normal(-8, 3, contract.inputs[0].shape).astype(np.float32)
        names = [f"{row}-{place}.npy" for place in range(1 + len(states))]
        for name, array in zip(names, [x, *states], strict=True):
            np.save(folder / name, array)
        lines.append(" ".join(names))
        _, states = run(x, states)
    (folder / "dataset.txt").write_text("\n".join(lines) + "\n")
    return folder / "dataset.txt"


def count(entry: Table) -> dict[str, float]:
    """Return what a price is made of: layers by core, inputs and outputs, and bytes."""
    layers = entry.layers
    return {
        "npu": sum(layer.target == NPU for layer in layers),
        "cpu": sum(layer.target == CPU for layer in layers),
        "borders": entry.borders,
        "megabytes": round(
            sum(x.weight_bytes + x.read_bytes + x.written_bytes for x in layers) / 1e6, 2
        ),
    }


def fits(counts: dict[str, dict[str, float]]) -> list[dict[str, float | str]]:
    """Return costs that explain the measurements, each in another way."""
    ms = MEASURED
    kept = {"int8": ms["borders_kept"], "float16": ms["borders_kept"] + ms["float16_more"]}
    removed = {"int8": ms["borders_removed"], "float16": ms["borders_removed_float16"]}
    border = 1e3 * ms["borders"] / counts["int8"]["borders"]
    even = solve(counts, kept)
    # 40 layers that went from the NPU to the CPU took so much longer there.
    moved = 1e3 * ms["to_cpu"] / 40
    deep, shallow = counts["int8"], counts["int8, 8 layers"]
    layers = deep["npu"] + deep["cpu"] - shallow["npu"] - shallow["cpu"]
    bytes_ms = (deep["megabytes"] - shallow["megabytes"]) / even["gb_per_s"]
    layer = 1e3 * (ms["seven_layers"] - bytes_ms) / layers
    rest = ms["borders_removed"] - deep["megabytes"] / even["gb_per_s"]
    rest -= layer * (deep["npu"] + deep["cpu"]) / 1e3
    pruned = {
        "npu_layer_us": layer,
        "cpu_layer_us": layer,
        "conversion_us": layer,
        "border_us": 1e3 * rest / deep["borders"],
        "gb_per_s": even["gb_per_s"],
    }
    explained = {
        "every layer costs the same; borders_kept, float16_more": even,
        "the CPU costs more, by to_cpu; borders_kept, float16_more": solve(counts, kept, cpu=moved),
        "inputs and outputs cost what borders says; borders_kept, float16_more": solve(
            counts, kept, border=border
        ),
        "every layer costs the same; borders_removed, borders_removed_float16": solve(
            counts, removed
        ),
        "layers cost what seven_layers leaves, inputs and outputs the rest of borders_removed": (
            pruned
        ),
    }
    return [
        {"explains": name, **{key: round(value, 2) for key, value in fit.items()}}
        for name, fit in explained.items()
    ]


def solve(
    counts: dict[str, dict[str, float]], ms: dict[str, float], cpu: float = 0, border: float = 0
) -> dict[str, float]:
    """Return costs with which int8 and float16 take so many ms.

    Args:
        counts: see `count`.
        ms: of int8 and float16.
        cpu: how much more a layer costs on the CPU, in us.
        border: what an input or output costs, in us.
    """
    names = ("int8", "float16")
    system = [[counts[n]["npu"] + counts[n]["cpu"], counts[n]["megabytes"]] for n in names]
    known = [counts[n]["cpu"] * cpu + counts[n]["borders"] * border for n in names]
    times = [1e3 * ms[n] - other for n, other in zip(names, known, strict=True)]
    layer, us_per_megabyte = np.linalg.solve(system, times)
    return {
        "npu_layer_us": layer,
        "cpu_layer_us": layer + cpu,
        "conversion_us": layer,
        "border_us": border,
        "gb_per_s": 1e3 / us_per_megabyte,
    }


if __name__ == "__main__":
    main()
