"""How much of the tensors' ranges a sample covers, by strategy and number of rows.

    python benchmarks/sampling.py --mandarin DIR

The demo's calibration audio is measured always, a folder of Mandarin speech where one is given or
lies in ../shared/speech/mandarin. Writes benchmarks/sampling.tsv and docs/coverage.svg, and records
coverage50 and uniform200 (the mean over the tensors and the worst of them; each the smaller figure
of the two sets where both were measured, the larger for uniform200, so that the comparison of the
two cannot look better than it is on either set).
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from record import record

from zipquant.audio import features, index, manifest
from zipquant.calibration import sampling
from zipquant.model import streaming
from zipquant.traces import tracing

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/demo/encoder.onnx"
ROWS = (10, 20, 50, 100, 200)
STRATEGIES = ("uniform", "stratified", "coverage")
SEEDS = range(5)


def trace(source: str, folder: Path) -> tuple[Path, Path]:
    """Trace all audio of a folder or manifest; return the contract's file and the chunk table."""
    found = manifest.read(source)
    streaming.inspect_and_try(MODEL, {}, folder / "model.json")
    index.write(found, {}, folder / "index.tsv", "mean", "skip")
    features.extract_shard(folder / "index.tsv", folder / "f.h5", "mean", 0.66)
    arguments = [folder / name for name in ("model.json", "f.h5", "t.h5", "t.parquet")]
    tracing.trace_shard(MODEL, *arguments, lanes=16)
    return folder / "model.json", folder / "t.parquet"


def measure(name: str, source: str) -> pd.DataFrame:
    """Return one row a strategy, number of rows and seed: mean and worst coverage."""
    records = []
    with tempfile.TemporaryDirectory() as folder:
        contract_file, table = trace(source, Path(folder))
        outputs = [Path(folder) / f"{part}.tsv" for part in ("sample", "coverage", "outliers")]
        for strategy in STRATEGIES:
            for rows in ROWS:
                for seed in SEEDS:
                    sampling.sample(
                        [table], contract_file, *outputs, sampling.Draw(strategy, rows, seed)
                    )
                    covered = pd.read_csv(outputs[1], sep="\t")["coverage"]
                    records.append((name, strategy, rows, seed, covered.mean(), covered.min()))
    return pd.DataFrame(records, columns=["audio", "strategy", "rows", "seed", "mean", "worst"])


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw mean and worst coverage over the number of rows, for each audio set."""
    sets = list(table["audio"].unique())
    figure = Figure(figsize=(5 * len(sets), 3.6), layout="tight")
    axes = figure.subplots(1, len(sets), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for number, strategy in enumerate(STRATEGIES):
            part = table[(table["audio"] == name) & (table["strategy"] == strategy)]
            middle = 100 * part.groupby("rows")[["mean", "worst"]].mean()
            color = f"C{number}"
            axis.plot(middle.index, middle["mean"], "o-", color=color, label=f"{strategy}, mean")
            axis.plot(
                middle.index, middle["worst"], "o--", color=color, label=f"{strategy}, worst tensor"
            )
        axis.set(title=name, xlabel="rows", xscale="log", xticks=ROWS, xticklabels=ROWS)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("covered range, %")
    axes[0][-1].legend(fontsize=8)
    # No date and fixed ids: equal figures give equal bytes.
    matplotlib.rcParams["svg.hashsalt"] = "coverage"
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mandarin", default=str(ROOT.parent / "shared/speech/mandarin"))
    arguments = parser.parse_args()
    sources = {"demo audio": str(ROOT / "demo/audio/calibration.tsv")}
    if Path(arguments.mandarin).is_dir():
        sources["Mandarin"] = arguments.mandarin
    table = pd.concat([measure(name, source) for name, source in sources.items()])
    summary = table.groupby(["audio", "strategy", "rows"], sort=False)[["mean", "worst"]].mean()
    print((100 * summary).round(1).to_string())
    summary.to_csv(ROOT / "benchmarks/sampling.tsv", sep="\t", float_format="%.4f")
    plot(table, ROOT / "docs/coverage.svg")
    few = summary.xs(("coverage", 50), level=("strategy", "rows")).min()
    many = summary.xs(("uniform", 200), level=("strategy", "rows")).max()
    record(
        {
            "coverage50_mean": few["mean"],
            "coverage50_worst": few["worst"],
            "uniform200_mean": many["mean"],
            "uniform200_worst": many["worst"],
        }
    )


if __name__ == "__main__":
    main()
