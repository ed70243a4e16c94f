"""What each choice in making a calibration set does to the int8 model, one choice at a time.

    python benchmarks/choices.py --seeds 3

Strategies, numbers of rows and quantization algorithms with the runtime's features and real
states; then zero states alone, and other front ends alone. Builds the demo model with
rknn-toolkit2 for each case and evaluates it in the simulator on the demo's evaluation audio; about
a minute a case. Writes benchmarks/choices.tsv: SQNR of the encoder output in dB, mean and least
over the seeds.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import pandas as pd
from record import RESULTS, record

from zipquant.audio import features, index, manifest
from zipquant.calibration import sampling
from zipquant.calibration.dataset import write as write_dataset
from zipquant.evaluation import encoder_error, measures
from zipquant.model import streaming
from zipquant.toolkit.platforms import Npu
from zipquant.traces import tracing
from zipquant.variants import build

ROOT = RESULTS.parent.parent
MODEL = ROOT / "models/demo/encoder.onnx"
CHOICES = ["front_end", "states", "strategy", "rows", "algorithm"]
BASE = ("kaldi", "real", "coverage", 60, "normal")


def cases() -> list[tuple]:
    """Return the combinations of `CHOICES` that are measured."""
    found = [
        BASE,
        ("kaldi", "zero", "coverage", 60, "normal"),
        ("librosa-preemphasis", "real", "coverage", 60, "normal"),
        ("librosa-db", "real", "coverage", 60, "normal"),
        ("kaldi", "real", "all", 100_000, "normal"),
    ]
    found += [
        ("kaldi", "real", strategy, rows, algorithm)
        for rows in (60, 20)
        for algorithm in ("normal", "kl_divergence")
        for strategy in ("uniform", "stratified", "coverage")
    ]
    return list(dict.fromkeys(found))


def extract(source: str, folder: Path, front_end: str) -> Path:
    """Compute the features of all audio of a manifest into a file of the folder."""
    found = manifest.read(source)
    index.write(found, {}, folder / "index.tsv", "mean", "skip")
    features.extract_shard(
        folder / "index.tsv", folder / f"{front_end}.h5", "mean", 0.66, {"name": front_end}
    )
    return folder / f"{front_end}.h5"


def measure(folder: Path, case: tuple, seed: int, output: Path) -> None:
    """Make the calibration set of a case, build, evaluate, and write the two figures as TSV."""
    front_end, states, strategy, rows, algorithm = case
    contract_file, work = folder / "model.json", output.with_suffix("")
    trace, table = folder / f"{front_end}.trace.h5", folder / f"{front_end}.parquet"
    outputs = [work / name for name in ("sample.tsv", "coverage.tsv", "outliers.tsv")]
    guard = front_end == "kaldi"
    sampling.sample([table], contract_file, *outputs, sampling.Draw(strategy, rows, seed, guard))
    dataset = work / "dataset.txt"
    write_dataset(outputs[0], [trace], contract_file, dataset, work / "arrays", states)
    source = build.Source(MODEL, contract_file, dataset)
    build.build_variant(work, Npu("rk3588"), source, build.Settings("w8a8", algorithm))
    shard = folder / "evaluation/kaldi.h5"
    found = work / "table.parquet"
    encoder_error.evaluate_shard(
        encoder_error.Models(MODEL, MODEL, contract_file, work),
        shard,
        encoder_error.Tables(found, work / "encoded.h5"),
        encoder_error.Amount(one_step_chunks=4),
    )
    scores = measures.summarize(pd.read_parquet(found), ["mode", "output"])
    scores[scores["output"] == "encoder_out"].to_csv(output, sep="\t", index=False)


def summarize(records: list[tuple]) -> pd.DataFrame:
    """Return mean and least SQNR over the seeds, one row a case."""
    table = pd.DataFrame(records, columns=[*CHOICES, "one step", "free-running"])
    summary = table.groupby(CHOICES, sort=False).agg(["mean", "min"]).round(1)
    summary.columns = [" ".join(column) for column in summary.columns]
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    records = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        streaming.inspect_and_try(MODEL, {}, folder / "model.json")
        extract(str(ROOT / "demo/audio/evaluation.tsv"), folder / "evaluation", "kaldi")
        for front_end in features.FRONT_ENDS:
            source = str(ROOT / "demo/audio/calibration.tsv")
            shard = extract(source, folder, front_end)
            outputs = [folder / f"{front_end}.trace.h5", folder / f"{front_end}.parquet"]
            tracing.trace_shard(MODEL, folder / "model.json", shard, *outputs, lanes=16)
        for number, case in enumerate(cases()):
            for seed in range(arguments.seeds):
                output = folder / f"{number}-{seed}.tsv"
                # The toolkit keeps its memory, and may take the whole process with it.
                job = multiprocessing.Process(target=measure, args=(folder, case, seed, output))
                job.start()
                job.join()
                if job.exitcode:
                    raise SystemExit(f"case {case} failed; the cause is above")
                scores = pd.read_csv(output, sep="\t").set_index("mode")["sqnr_db"]
                modes = (measures.ONE_STEP, measures.FREE_RUNNING)
                records.append((*case, *(scores[mode] for mode in modes)))
            # After each case: who interrupts it keeps what is measured.
            summary = summarize(records)
            summary.to_csv(ROOT / "benchmarks/choices.tsv", sep="\t")
            print(summary.tail(1).to_string(header=False), flush=True)
    free = summary["free-running mean"]
    record(
        {
            "sqnr_exact_db": free[BASE],
            "sqnr_zero_states_db": free["kaldi", "zero", "coverage", 60, "normal"],
        }
    )


if __name__ == "__main__":
    main()
