"""Files that were flipped, cut off, emptied or swapped: each is noticed before it is used."""

import filecmp
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from helpers.audio import make_audio
from project import ENVIRONMENT, ROOT, check_same, errors_of, note, snakemake, succeed
from zipquant.audio import features, frame_store
from zipquant.errors import UserError
from zipquant.jobs import integrity
from zipquant.model import contract
from zipquant.traces import store, tracing
from zipquant.variants.record import Build


def flip(path: Path, _: Path) -> None:
    with open(path, "r+b") as file:
        place = random.randrange(path.stat().st_size)
        file.seek(place)
        byte = file.read(1)[0] ^ (1 << random.randrange(8))
        file.seek(place)
        file.write(bytes([byte]))


def truncate(path: Path, _: Path) -> None:
    os.truncate(path, random.randrange(1, max(2, path.stat().st_size)))


def empty(path: Path, _: Path) -> None:
    os.truncate(path, 0)


def swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    "flipped": flip, "cut off": truncate, "emptied": empty, "swapped": swap,
}  # fmt: skip


def damage(reference: Path, scratch: Path) -> dict:
    project = scratch / "damaged"
    shutil.copytree(reference, project, symlinks=True)
    results = project / "results"
    recorded = list(integrity.recorded(results))
    inside = {p: [f for f in sorted(p.rglob("*")) if f.is_file()] for p in recorded if p.is_dir()}
    for path, files in inside.items():
        inside[path] = [f for f in files if f.name not in integrity.IGNORED][:3]
    everything = [file for path in recorded for file in inside.get(path, [path])]

    def intact(file: Path) -> Path:
        return reference / file.relative_to(project)

    count: dict[str, Counter] = {}
    # Many at a time, each of another record, for a job names all that it finds damaged.
    most = max(map(len, inside.values()))
    rounds = [(name, n) for name in DAMAGE for n in range(most)]
    for name, n in rounds:
        damaged = {}
        for path in recorded:
            files = inside.get(path, [path])
            if n >= len(files):
                continue
            other = other_of_its_kind(files[n], everything)
            if name == "swapped" and other is None:
                continue
            # All others may be damaged as well.
            DAMAGE[name](files[n], intact(other or files[n]))
            if not filecmp.cmp(files[n], intact(files[n]), shallow=False):
                damaged[path] = files[n]
        done = job_that_reads(results, list(damaged))
        reported = [
            e for e in (results / "logs/reader.log").read_text().splitlines() if "error: " in e
        ]
        for path, file in damaged.items():
            if (
                done.returncode == 0
                or f"{path} was damaged" not in "".join(reported)
                or path.exists()
            ):
                note("silently_wrong", f"{name} {file.relative_to(results)} was not noticed")
            kind = re.sub(r"\d+(\.\w+)$", r"*\1", str(path.relative_to(results)))
            count.setdefault(kind, Counter())[name] += 1
        # Back as it was; that the workflow repairs it is tried below.
        shutil.rmtree(results)
        shutil.copytree(reference / "results", results, symlinks=True)
        print(f"{name}: {len(damaged)}", flush=True)
    count["variants/int8/encoder.rknn"] = unrecorded_model(results / "variants/int8")
    count["traces/*.h5 above 1 MiB"] = large_trace(scratch)
    print(count["traces/*.h5 above 1 MiB"], flush=True)
    return {kind: dict(kinds) for kind, kinds in sorted(count.items())}


def job_that_reads(results: Path, inputs: list[Path]) -> subprocess.CompletedProcess:
    """Run a job as the workflow does, which reads all that a results folder holds."""
    code = (
        "import sys, json; from types import SimpleNamespace; from job import run\n"
        "inputs, results = json.load(sys.stdin), sys.argv[1]\n"
        "run(SimpleNamespace(rule='reader', log=[results + '/logs/reader.log'], input=inputs,"
        " output=[], resources={}, config={'results': results, 'job_hours': 1}), print)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(results)],
        input=json.dumps([str(path) for path in inputs]),
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "scripts")},
        text=True,
        capture_output=True,
        timeout=300,
    )


def other_of_its_kind(path: Path, everything: list[Path]) -> Path | None:
    """Another file of the same kind, sound in itself."""
    for same in (
        lambda p: p.name == path.name,
        lambda p: p.parent == path.parent and p.suffix == path.suffix,
        lambda p: p.suffix == path.suffix,
    ):
        for other in everything:
            if other != path and same(other) and not filecmp.cmp(path, other, shallow=False):
                return other
    return None


def unrecorded_model(work: Path) -> Counter:
    """A variant's .rknn, which has no record: what reads it compares it with build.json."""
    build = Build.load(work)
    path, other = work / "encoder.rknn", work / "build.json"
    content = path.read_bytes()
    count: Counter = Counter()
    for name, change in DAMAGE.items():
        change(path, other)
        try:
            build.check(work)
            note("silently_wrong", f"{name} {path} was not noticed")
        except UserError as error:
            if f"{path} was damaged" not in str(error) or path.exists():
                note("silently_wrong", f"{name} {path}: {error}")
        count[name] += 1
        path.write_bytes(content)
    return count


def large_trace(scratch: Path) -> Counter:
    """A trace file of which the record has pieces alone: the rest is noticed when it is read."""
    results = scratch / "large/results"
    results.mkdir(parents=True)
    model = contract.inspect(ROOT / "models/demo/encoder.onnx")
    model.save(results / "model.json")
    with frame_store.FrameWriter(results / "features.h5") as writer:
        for number in range(4):
            writer.add(f"u{number}", features.fbank(make_audio(8.0, number)))
    path, table = results / "trace.h5", results / "trace.parquet"
    encoder = ROOT / "models/demo/encoder.onnx"
    tracing.trace_shard(
        encoder, results / "model.json", results / "features.h5", path, table, lanes=4
    )
    integrity.seal(results, [path])
    content, record = path.read_bytes(), integrity.RECORDS
    record_content = (results / record / "trace.h5.tsv").read_bytes()
    assert len(content) > 3 << 20

    def rows() -> list[bytes]:
        integrity.verify(results, [path])
        with store.TraceReader(path, model) as reader:
            # The first chunks of a stream to the last ones, of all utterances.
            return [array.tobytes() for row in range(90) for array in reader.row(row)]

    intact = rows()
    count: Counter = Counter()
    for _ in range(60):
        path.write_bytes(content)
        (results / record / "trace.h5.tsv").write_bytes(record_content)
        flip(path, path)
        try:
            same = rows() == intact
            count["flipped where nothing is read" if same else "not noticed"] += 1
            if not same:
                note("silently_wrong", "a flipped bit of a large trace file was not noticed")
        except UserError as error:
            known = "another content than was written" in str(error)
            count[f"flipped, noticed by {'the record' if known else 'a block'}"] += 1
    return count


def repair(reference: Path, scratch: Path) -> dict:
    """The workflow itself: a file is damaged, its reader has to run, and makes it again."""
    project = scratch / "repaired"
    shutil.copytree(reference, project, symlinks=True)
    count: Counter = Counter()
    results = project / "results"
    shard = next((results / "traces").glob("*.h5")).stem
    # Against the flow of data, so that nothing is made again because of the case before.
    cases = {
        "best.json": "scores/scores.json",
        "texts/float/0.tsv": "best.json",
        "encoded/int8/0.h5": "texts/int8/0.tsv",
        "variants/int8/encoder.rknn": "evaluation/int8/0.parquet",
        "model.json": "calibration/sample.tsv",
        "calibration/sample.tsv": "calibration/dataset.txt",
        f"traces/{shard}.h5": "calibration/dataset.txt",
        f"traces/{shard}.parquet": "calibration/sample.tsv",
        f"features/calibration/{shard}.h5": f"traces/{shard}.h5",
        f"index/calibration/{shard}.tsv": f"features/calibration/{shard}.h5",
    }
    for number, (name, reader) in enumerate(cases.items()):
        kind = ("flipped", "cut off", "emptied")[number % 3]
        DAMAGE[kind](results / name, results / name)
        (results / reader).unlink()
        done = snakemake(project, f"results/{reader}")
        # Another size is noticed before the first job, another content by the job that reads it.
        warned = f"warning: results/{name} was damaged" in done.stderr
        refused = any(f"{name} was damaged" in e for e in errors_of(done))
        if not warned and (done.returncode == 0 or not refused):
            note("silently_wrong", f"the workflow did not notice that {name} was {kind}")
        succeed(project, f"results/{reader}")
        count[kind] += 1
        print(f"repaired {name} ({kind})", flush=True)
    succeed(project)
    check_same(reference, project, "damage and the runs that repair it")
    return dict(count)
