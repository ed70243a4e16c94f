"""What each stage costs for an hour of audio, and what many utterances cost Snakemake itself.

    python benchmarks/planning.py            # 20 minutes on an idle machine
    python benchmarks/planning.py --quick    # only to see that it runs; records nothing

Each stage of a shard runs twice, with little audio and with four times as much, in a process of its
own as in the workflow. The difference gives its cost for an hour of audio, the rest is what a job
costs whatever it has to do. Time is that of the processor, as the kernel counts it: of several
threads it is the sum, and what else the machine does hardly changes it.

Then Snakemake plans a run over many utterances (`--dry-run`), with a shard for each 500.

Writes benchmarks/planning.tsv, and prints what docs/planning.md makes of it.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import yaml
from record import record

from zipquant.audio import features, index, reading
from zipquant.audio.utterance import Utterance
from zipquant.calibration import sampling
from zipquant.calibration.dataset import write as write_dataset
from zipquant.evaluation import encoder_error
from zipquant.model import streaming
from zipquant.recognition import decoding
from zipquant.recognition.encoding import encode_shard
from zipquant.toolkit.platforms import Npu
from zipquant.traces import tracing
from zipquant.variants import preparation
from zipquant.variants.build import Settings, Source, build_variant

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).resolve().parent / "planning.tsv"
WORKFLOW = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")
DEMO = ROOT / "models/demo"

TRACED = {"demo": (6.0, 24.0), "20 M": (2.0, 8.0)}
"""Minutes of audio that are indexed, traced and sampled, by encoder."""

EVALUATED = {"demo": (0.5, 2.0), "20 M": (0.1, 0.4)}
"""Minutes of audio that go through the toolkit's simulator."""

FIXED = ("inspect", "calibration", "prepare", "prove")
"""Stages that do the same work whatever audio there is; differences are chance."""

SEARCHED = 7.0
"""Minutes of audio that the float16 layers are searched on: more than the search takes in."""

UTTERANCES = (1_000, 10_000, 100_000)
PER_SHARD = 500
HOURS = (100, 1_000, 10_000)
EVALUATION_HOURS = 1

SETTINGS = yaml.safe_load((ROOT / "config.yaml").read_text())


@dataclass(frozen=True)
class Cost:
    """What one job took: seconds of processor time, peak memory and output in MB."""

    seconds: float
    memory: float
    disk: float


def measure(job: Callable[[], None], *outputs: Path) -> Cost:
    """Run a job in a process of its own."""
    with tempfile.TemporaryFile() as log:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                job()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status, used = os.wait4(child, 0)
        if status:
            log.seek(0)
            raise SystemExit(log.read().decode(errors="replace")[-2000:])
    files = [f for path in outputs for f in (path, *path.rglob("*")) if f.is_file()]
    disk = sum(file.stat().st_size for file in files) / 1e6
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, disk)


def speech(folder: Path, minutes: float) -> tuple[list[str], list[Path], float]:
    """Write so much speech, cut from the demo's audio into pieces of 5 to 15 s.

    Returns:
        Ids, paths, and the hours that it really is.
    """
    tape = np.concatenate([reading.load(p) for p in sorted((ROOT / "demo/audio").rglob("*.wav"))])
    draw = random.Random(0)
    folder.mkdir(parents=True)
    paths, seconds = [], 0.0
    while seconds < minutes * 60:
        length = min(draw.uniform(5, 15), minutes * 60 - seconds + 1)
        start = draw.randrange(len(tape))
        wave = np.take(tape, range(start, start + int(length * reading.SAMPLE_RATE)), mode="wrap")
        paths.append(folder / f"{len(paths)}.wav")
        soundfile.write(paths[-1], wave, reading.SAMPLE_RATE, subtype="PCM_16")
        seconds += length
    return [path.stem for path in paths], paths, seconds / 3600


def shard(model: Path, work: Path, minutes: float) -> tuple[float, dict[str, Cost]]:
    """All stages of one shard up to the calibration set; return hours, and costs by stage."""
    ids, paths, hours = speech(work / "audio", minutes)
    told, feats, card = work / "index.tsv", work / "features.h5", work / "model.json"
    tapes, table, sample = work / "traces.h5", work / "traces.parquet", work / "sample.tsv"
    dataset, arrays = work / "set/dataset.txt", work / "set/arrays"
    dataset.parent.mkdir()
    lists = [work / "coverage.tsv", work / "outliers.tsv"]
    costs = {
        "inspect": measure(partial(streaming.inspect_and_try, model, {}, card), card),
        "index": measure(
            partial(
                index.write, list(map(Utterance, ids, map(str, paths))), {}, told, "mean", "skip"
            ),
            told,
        ),
        "features": measure(partial(features.extract_shard, told, feats, "mean", 0.66), feats),
        "traces": measure(
            partial(tracing.trace_shard, model, card, feats, tapes, table, 32), tapes, table
        ),
    }
    draw = partial(sampling.sample, [table], card, sample, *lists)
    costs["sample"] = measure(partial(draw, sampling.Draw("coverage", rows=60, seed=0)), sample)
    write = partial(write_dataset, sample, [tapes], card, dataset, arrays, "real")
    costs["calibration"] = measure(write, dataset.parent)
    prepared, rewrites = work / "prepared.onnx", SETTINGS["preparation"]
    prepare = partial(preparation.prepare, model, card, rewrites, prepared)
    costs["prepare"] = measure(prepare, prepared)
    proof = partial(preparation.prove, model, prepared, card, dataset, rewrites)
    costs["prove"] = measure(partial(proof, work / "prepared.json"))
    return hours, costs


def accuracy(
    model: Path, prepared: Path, work: Path, card: Path, built: Path, minutes: float
) -> tuple[float, dict[str, Cost]]:
    """All stages of one shard of evaluation audio; return hours, and costs by stage."""
    ids, paths, hours = speech(work / "audio", minutes)
    told, feats = work / "index.tsv", work / "features.h5"
    index.write(list(map(Utterance, ids, map(str, paths))), {}, told, "mean", "skip")
    features.extract_shard(told, feats, "mean", 0.66)
    encoded, simulated, table = work / "float.h5", work / "int8.h5", work / "int8.parquet"
    costs = {"encode": measure(partial(encode_shard, model, card, feats, encoded, 32), encoded)}
    simulate = partial(
        encoder_error.evaluate_shard,
        encoder_error.Models(model, prepared, card, built),
        feats,
        encoder_error.Tables(table, simulated),
    )
    amount = encoder_error.Amount(one_step_chunks=4)
    costs["evaluate"] = measure(partial(simulate, amount), table, simulated)
    if model.parent == DEMO:
        parts = [DEMO / name for name in ("tokens.txt", "decoder.onnx", "joiner.onnx")]
        texts = work / "texts.tsv"
        costs["decode"] = measure(
            partial(decoding.decode_shard_float, encoded, texts, *parts), texts
        )
    return hours, costs


def stages(name: str, model: Path, quick: bool, work: Path) -> list[dict]:
    """Measure all stages with one encoder; return rows of the table.

    Args:
        name: the encoder's.
        model: its ONNX file.
        quick: an eighth of the audio.
        work: a folder.
    """
    rows = []

    def compare(few: tuple[float, dict[str, Cost]], many: tuple[float, dict[str, Cost]]) -> None:
        for stage in few[1]:
            small, large = few[1][stage], many[1][stage]
            hours = many[0] - few[0]
            slope = max(0.0, (large.seconds - small.seconds) / hours)
            if stage in FIXED:
                slope = 0.0
            rows.append(
                {
                    **{"encoder": name, "stage": stage},
                    "job_s": max(0.0, small.seconds - slope * few[0]),
                    "hour_s": slope,
                    "peak_mb": max(small.memory, large.memory),
                    "hour_mb": max(0.0, (large.disk - small.disk) / hours),
                    "measured_hours": many[0],
                }
            )
            print(rows[-1], flush=True)

    scale = 8 if quick else 1
    sizes = [minutes / scale for minutes in TRACED[name]]
    compare(*[shard(model, work / f"trace{n}", size) for n, size in enumerate(sizes)])
    card, built = work / "trace1/model.json", work / "variant"
    built.mkdir()
    prepared, dataset = work / "trace1/prepared.onnx", work / "trace1/set/dataset.txt"
    variant = SETTINGS["variants"]["int8"]
    plain = variant | {"mixed_precision": None}

    def once(stage: str, job: Callable[[], None], *outputs: Path) -> None:
        cost = measure(job, *outputs)
        rows.append(
            {
                **{"encoder": name, "stage": stage, "job_s": cost.seconds, "hour_s": 0.0},
                **{"peak_mb": cost.memory, "hour_mb": 0.0, "measured_hours": 0.0},
            }
        )
        print(rows[-1], flush=True)

    source, npu = Source(prepared, card, dataset), Npu(SETTINGS["platform"])
    once("quantize", partial(build_variant, built, npu, source, Settings(**plain)), built)
    # A build with the search for float16 layers, which takes in as much audio as this.
    ids, paths, _ = speech(work / "searched/audio", SEARCHED / scale)
    told, feats = work / "searched/index.tsv", work / "searched/features.h5"
    index.write(list(map(Utterance, ids, map(str, paths))), {}, told, "mean", "skip")
    features.extract_shard(told, feats, "mean", 0.66)
    source = replace(source, original=model, features=[feats])
    searched = partial(build_variant, work / "searched", npu, source, Settings(**variant))
    once("quantize, with search", searched)
    sizes = [minutes / scale for minutes in EVALUATED[name]]
    folders = [work / f"evaluation{n}" for n in range(2)]
    measured = [
        accuracy(model, prepared, folder, card, built, size)
        for folder, size in zip(folders, sizes, strict=True)
    ]
    compare(*measured)
    return rows


def plan(utterances: int, work: Path) -> dict:
    """Let Snakemake plan a run from nothing; return its row of the table."""
    work.mkdir()
    for part in WORKFLOW:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, work / part)
    # Only their names and sizes matter; a dry run does not read them.
    content = (ROOT / "models/demo/tokens.txt").read_bytes()
    for kind, count in (("calibration", utterances), ("evaluation", PER_SHARD)):
        lines = ["id\tpath"]
        for number in range(count):
            path = Path(f"audio/{kind}/{number // 1000:03}/{number:06}.wav")
            if number % 1000 == 0:
                (work / path).parent.mkdir(parents=True)
            (work / path).write_bytes(content)
            lines.append(f"{kind}-{number:06}\t{path}")
        (work / f"{kind}.tsv").write_text("\n".join(lines) + "\n")
    shards = {"calibration": max(1, utterances // PER_SHARD), "evaluation": 1}
    sets = {kind: f"{kind}.tsv" for kind in ("calibration", "evaluation")}
    (work / "my.yaml").write_text(yaml.safe_dump({"audio": {**sets, "shards": shards}}))
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def dry_run() -> None:
        os.chdir(work)
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all"]
        os.execv(sys.executable, [*command, "--cores", "2", "--configfile", "my.yaml"])

    begin = time.monotonic()
    cost = measure(dry_run)
    print(f"{utterances} utterances: {time.monotonic() - begin:.1f} s by the clock", flush=True)
    return {
        **{"encoder": "", "stage": f"plan {utterances}", "job_s": cost.seconds, "hour_s": 0.0},
        **{"peak_mb": cost.memory, "hour_mb": 0.0, "measured_hours": 0.0},
    }


def estimate(table: pd.DataFrame) -> pd.DataFrame:
    """What whole runs need, with a shard for each hour of audio.

    Returns:
        One row for each encoder and number of hours of calibration audio: core hours up to the
        calibration set, those of one quantized variant with one hour of evaluation audio, memory of
        the largest job in MB, and disk in GB.
    """
    rows = []
    for name, costs in table[table.encoder != ""].groupby("encoder", sort=False):
        cost = costs.set_index("stage")
        traced = cost.loc[["index", "features", "traces"]]
        for hours in HOURS:
            each = (traced.job_s + traced.hour_s).sum() * hours
            once = cost.loc[["inspect", "sample", "calibration", "prepare", "prove"]]
            ends = (once.job_s + once.hour_s * hours).sum()
            tested = cost.loc[[s for s in ("quantize", "encode", "evaluate") if s in cost.index]]
            test = (tested.job_s + tested.hour_s * EVALUATION_HOURS).sum()
            rows.append(
                {
                    "encoder": name,
                    "hours": hours,
                    "shards": hours,
                    "core_hours": (each + ends) / 3600,
                    "variant_core_hours": test / 3600,
                    "disk_gb": (cost.hour_mb[["features", "traces"]].sum() * hours) / 1000,
                }
            )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """A table of a page."""
    rows = [table.columns, ["---"] * len(table.columns)]
    rows += [[f"{v:,.3g}" if isinstance(v, float) else str(v) for v in row] for row in table.values]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", type=Path, help="the exported 20 M encoder, if there is one")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["stages", "plan"])
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="zipquant-") as folder:
        work = Path(folder)
        if args.only != "plan":
            large = args.large or work / "large/encoder.onnx"
            if not args.large:
                command = [sys.executable, str(ROOT / "demo/export.py"), "--scale", "large"]
                subprocess.run([*command, "--out", str(large.parent)], check=True)
            for name, model in {"demo": DEMO / "encoder.onnx", "20 M": large}.items():
                rows += stages(name, model.resolve(), args.quick, work / name.replace(" ", "-"))
        if args.only != "stages":
            many = UTTERANCES[:1] if args.quick else UTTERANCES
            rows += [plan(count, work / f"plan{count}") for count in many]
    table = pd.DataFrame(rows)
    if TABLE.exists() and args.only:
        known = pd.read_csv(TABLE, sep="\t", keep_default_na=False)
        planned = known.stage.str.startswith("plan")
        kept = known[~planned] if args.only == "plan" else known[planned]
        table = pd.concat([kept, table] if args.only == "plan" else [table, kept])
    print(markdown(table))
    if not args.quick:
        table.to_csv(TABLE, sep="\t", index=False, float_format="%.4g")
        print(markdown(estimate(table)))
        plans = table[table.stage.str.startswith("plan")].set_index("stage")
        record(
            {
                f"{stage.replace(' ', '_')}_{name}": plans.loc[stage, column]
                for stage in plans.index
                for name, column in (("cpu_s", "job_s"), ("peak_mb", "peak_mb"))
            }
        )


if __name__ == "__main__":
    main()
