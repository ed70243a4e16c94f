"""The fault campaign: kills, damage, full disks, hostile input, and what became of it.

    python benchmarks/faults.py                     # all of it; as root, for the disks
    python benchmarks/faults.py kills damage        # some parts; the figures of the others stay

Works on a small project with audio of its own, once undisturbed and then under each fault, and
compares: the calibration set, all tables and features byte for byte, evaluation figures exactly.
Writes benchmarks/faults.json. `lost` counts what had been finished before a fault and was gone or
done again after it; `silently_wrong` what differed from the undisturbed run without a word.
"""

import argparse
import contextlib
import csv
import filecmp
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from hypothesis import HealthCheck, given, settings  # noqa: E402

from helpers import hostile  # noqa: E402
from helpers.audio import make_audio, write_audio  # noqa: E402
from helpers.models import tiny_encoder  # noqa: E402
from zipquant.audio import features, frame_store  # noqa: E402
from zipquant.errors import UserError  # noqa: E402
from zipquant.jobs import integrity  # noqa: E402
from zipquant.model import contract  # noqa: E402
from zipquant.traces import store, tracing  # noqa: E402
from zipquant.variants.record import Build  # noqa: E402

FIGURES = ROOT / "benchmarks/faults.json"

PARTS = ("Snakefile", "config.yaml", "rules", "scripts", "envs", "profiles", "models")

COMPARED = (
    *("index", "features", "traces", "calibration", "prepared", "evaluation", "encoded", "texts"),
    *("scores", "model.json", "recognizer/decoder.json", "recognizer/joiner.json"),
)
"""What two runs have in common to the byte. Models differ in their bytes from build to build, and
build.json and the report hold durations; what the models compute is compared by the evaluation."""

NOT_COMPARED = (*integrity.IGNORED, "0.time.json")
"""Files in these folders that hold durations."""

LIGHT, HEAVY = 3, 4
"""Kills for each rule."""

HEAVY_RULES = ("calibration", "quantize", "evaluate")

EXAMPLES = 1500
"""Hostile inputs of each kind."""

MINUTES = 60.0
"""How long the part `kills` goes on killing; what is left then runs through undisturbed."""

random.seed(0)
OUTCOME: dict[str, list[str]] = {"lost": [], "silently_wrong": []}


def note(kind: str, what: str) -> None:
    OUTCOME[kind].append(what)
    print(f"{kind.upper()}: {what}", flush=True)


def make_project(folder: Path) -> Path:
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        folder.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, folder / part)
    for number in range(4):
        write_audio(folder / f"audio/calibration/c{number}.wav", 1.0 + 0.3 * number, number)
    write_audio(folder / "audio/evaluation/e0.wav", 1.2, 100)
    configure(folder)
    return folder


def configure(folder: Path, **changes) -> None:
    audio = {
        "calibration": "audio/calibration",
        "evaluation": "audio/evaluation",
        "shards": {"calibration": 2, "evaluation": 1},
    }
    given = {
        "audio": audio,
        "calibration": {"rows": 6},
        # One variant, without the search for float16 layers, which takes minutes.
        "variants": {"int8": {"mixed_precision": None}, "fp16": None},
        "evaluation": {"long_stream": 3, "one_step_chunks": 1},
    } | changes
    (folder / "my.yaml").write_text(yaml.safe_dump(given))


def command(*targets: str) -> list[str]:
    options = ("--cores", "1", "--configfile", "my.yaml")
    return [sys.executable, "-m", "snakemake", *targets, *options]


ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def snakemake(project: Path, *targets: str, **options) -> subprocess.CompletedProcess:
    given = [*options.pop("before", ()), *command(*targets)]
    return subprocess.run(
        given, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=1800
    )


def succeed(project: Path, *targets: str) -> str:
    """Run, again if something damaged was found, and return all that was printed."""
    printed = ""
    for _ in range(12):
        done = snakemake(project, *targets)
        printed += done.stdout + done.stderr
        if done.returncode == 0:
            return printed
        if "run the same command again" not in done.stderr:
            break
    raise SystemExit(f"no success in {project}:\n{printed}")


def errors_of(done: subprocess.CompletedProcess) -> list[str]:
    """The plain errors of a failed run; a traceback is a fault of ours."""
    output = done.stdout + done.stderr
    if "Traceback" in output:
        note("silently_wrong", f"a traceback: {output[-2000:]}")
    return [line for line in output.splitlines() if line.startswith("error: ")]


def compare(reference: Path, project: Path, results: str = "results") -> list[str]:
    """Return what differs of the files that any two runs have in common."""
    different = []
    for name in COMPARED:
        base = reference / "results" / name
        for path in [base] if base.is_file() else sorted(base.rglob("*")):
            other = project / results / path.relative_to(reference / "results")
            if not path.is_file() or path.name in NOT_COMPARED:
                continue
            if not other.is_file() or not filecmp.cmp(path, other, shallow=False):
                different.append(str(other.relative_to(project)))
    return different


def check_same(reference: Path, project: Path, after: str, results: str = "results") -> None:
    for path in compare(reference, project, results):
        note("silently_wrong", f"{path} differs after {after}")


# Kills


def sealed(project: Path) -> dict[Path, int]:
    """The finished files of a project, with their time of change."""
    results = project / "results"
    found = {}
    for path in integrity.recorded(results):
        record = results / integrity.RECORDS / f"{path.relative_to(results)}.tsv"
        if record.stat().st_size and path.exists():
            found[path] = record.stat().st_mtime_ns
    return found


def check_kept(project: Path, before: dict[Path, int]) -> None:
    now = sealed(project)
    for path, changed in before.items():
        if now.get(path) != changed:
            note("lost", f"{path.relative_to(project)} was gone or done again")


def job_of(run: subprocess.Popen) -> tuple[str, int] | None:
    """The rule's script that is at work below a run, and its process."""
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                for argument in process.cmdline():
                    found = re.search(r"\.snakemake/scripts/\w+\.(\w+)\.py$", argument)
                    if found and "python" in process.name():
                        return found[1], process.pid
    return None


def durations(reference: Path) -> dict[str, float]:
    """Seconds of the longest job of each script, by its log's folder and Snakemake's benchmarks."""
    found: dict[str, float] = {}
    folder = reference / "results/benchmarks"
    names = {"inspect": "inspect_model"}
    for path in folder.rglob("*.tsv"):
        rule = path.relative_to(folder).parts[0].removesuffix(".tsv")
        with open(path) as file:
            seconds = float(next(csv.DictReader(file, delimiter="\t"))["s"])
        rule = names.get(rule, rule)
        found[rule] = max(found.get(rule, 0), seconds)
    return found


def half_written(project: Path) -> bool:
    return any((project / "results").rglob(".*.part*"))


def kills(reference: Path, scratch: Path) -> dict:
    project = make_project(scratch / "killed")
    expected = durations(reference)
    left = {rule: HEAVY if rule in HEAVY_RULES else LIGHT for rule in expected}
    count: dict[str, Counter] = {rule: Counter() for rule in left}
    before: dict[Path, int] = {}
    whom = ["the run", "the job", "the process group"]
    end_of_kills = time.monotonic() + 60 * MINUTES
    while True:
        with open(scratch / "killed.log", "ab") as log:
            run = subprocess.Popen(
                command(),
                cwd=project,
                env=ENVIRONMENT,
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        victim = None
        while run.poll() is None and victim is None:
            job = job_of(run) if time.monotonic() < end_of_kills else None
            if job and left.get(job[0], 0) > 0:
                victim = job
            time.sleep(0.01)
        if victim is None:
            if run.returncode != 0:
                raise SystemExit(f"a resumed run failed: see {scratch / 'killed.log'}")
            break
        rule, pid = victim
        end = time.monotonic() + random.uniform(0, 0.9) * expected[rule]
        at_write = left[rule] % 2 == 0
        if at_write:  # wait for a half written file, at most as long as the job takes
            end = time.monotonic() + expected[rule]
        while time.monotonic() < end and psutil.pid_exists(pid):
            if at_write and half_written(project):
                break
            time.sleep(0.002)
        alive = psutil.pid_exists(pid)
        target = whom[sum(map(sum, (c.values() for c in count.values()))) % 3]
        if not alive and target == "the job":
            target = "the run"
        # What was finished before: it has to be there after, and not to be done again.
        check_kept(project, before)
        with contextlib.suppress(ProcessLookupError):
            if target == "the process group":
                os.killpg(run.pid, signal.SIGKILL)
            else:
                os.kill(run.pid if target == "the run" else pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(60)
        left[rule] -= 1
        if alive:
            count[rule][target + (", in mid-write" if half_written(project) else "")] += 1
        else:
            count[rule]["between two jobs"] += 1
        wait_for_silence(project)
        script = {"inspect_model": "inspect"}.get(rule, rule)
        before = {p: t for p, t in sealed(project).items() if not made_by(script, p, project)}
        for path in before:
            if wrong := integrity.problem(project / "results", path):
                note("silently_wrong", f"{path.relative_to(project)}: {wrong} after a kill")
        print(f"killed {target} in {rule} ({'at work' if alive else 'done'})", flush=True)
    check_kept(project, before)
    check_same(reference, project, "kills")
    for path in (project / "results").rglob(".*.part*"):
        note("silently_wrong", f"{path} was left behind")
    return {rule: dict(sorted(kinds.items())) for rule, kinds in sorted(count.items()) if kinds}


MADE_BY = {
    "inspect": "model.json", "index": "index/.*/\\d+", "overlap": "index/overlap",
    "features": "features", "traces": "traces", "sample": "calibration/.*tsv",
    "calibration": "calibration", "prepare": "prepared/.*onnx", "prove": "prepared/.*json",
    "quantize": "variants", "encode": "encoded/float", "evaluate": "evaluation|encoded/int8",
    "decode": "texts", "choose": "best", "convert": "recognizer",
    "verify": "recognizer/.*json", "decode_rknn": "texts/rknn", "score": "scores",
    "bundle": "bundle", "report": "report",
}  # fmt: skip


def made_by(rule: str, path: Path, project: Path) -> bool:
    """Whether a file may be of the killed job, which is done again."""
    return bool(re.match(MADE_BY[rule], str(path.relative_to(project / "results"))))


def wait_for_silence(project: Path) -> None:
    """Nothing may work on in the project once its run was killed."""
    end = time.monotonic() + 10
    while at_work := [
        process.pid
        for process in psutil.process_iter(["cwd", "name"])
        if process.info["cwd"] == str(project) and "python" in process.info["name"]
    ]:
        if time.monotonic() > end:
            note("silently_wrong", f"processes {at_work} work on after a kill")
            return
        time.sleep(0.05)


# Damage


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
        told = [e for e in (results / "logs/reader.log").read_text().splitlines() if "error: " in e]
        for path, file in damaged.items():
            if done.returncode == 0 or f"{path} was damaged" not in "".join(told) or path.exists():
                note("silently_wrong", f"{name} {file.relative_to(results)} was not noticed")
            kind = re.sub(r"\d+(\.\w+)$", r"*\1", str(path.relative_to(results)))
            count.setdefault(kind, Counter())[name] += 1
        # Back as it was; that the workflow mends it is tried below.
        shutil.rmtree(results)
        shutil.copytree(reference / "results", results, symlinks=True)
        print(f"{name}: {len(damaged)}", flush=True)
    count["variants/int8/encoder.rknn"] = unrecorded_model(results / "variants/int8")
    count["traces/*.h5 above 1 MiB"] = large_trace(scratch)
    print(count["traces/*.h5 above 1 MiB"], flush=True)
    return {kind: dict(kinds) for kind, kinds in sorted(count.items())}


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


def mending(reference: Path, scratch: Path) -> dict:
    """The workflow itself: a file is damaged, its reader has to run, the same command mends it."""
    project = scratch / "mended"
    shutil.copytree(reference, project, symlinks=True)
    count: Counter = Counter()
    results = project / "results"
    shard = next((results / "traces").glob("*.h5")).stem
    # Against the flow of data, so that nothing is made anew because of the case before.
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
        print(f"mended {name} ({kind})", flush=True)
    succeed(project)
    check_same(reference, project, "damage and the runs that mend it")
    return dict(count)


# Places


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True
    )
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


FULL = {
    "features": ("features/calibration", "features/calibration/{shard}.h5"),
    "traces": ("traces", "traces/{shard}.h5"),
    "calibration": ("calibration/arrays", "calibration/dataset.txt"),
    "prepare": ("prepared", "prepared/encoder.onnx"),
    "quantize": ("variants/int8", "variants/int8/build.json"),
    "evaluate": ("evaluation/int8", "evaluation/int8/0.parquet"),
    "convert": ("recognizer", "recognizer/decoder.rknn"),
    "report": ("report", "report/index.html"),
    "bundle": ("bundle", "bundle.tar"),
}
"""What each of these rules makes, and a target."""


def full_disk(reference: Path, scratch: Path) -> dict:
    found = {}
    project = scratch / "full"
    shutil.copytree(reference, project, symlinks=True)
    results, kept = project / "results", project / "kept"
    results.rename(kept)
    with small_disk(results, 200):
        shutil.copytree(kept, results, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(kept)
        shard = next((results / "traces").glob("*.h5")).stem
        for rule, (output, target) in FULL.items():
            size = sum(f.stat().st_size for f in (results / output).rglob("*") if f.is_file())
            path = results / target.format(shard=shard)
            # What the rule has made before goes, and less room is left than it took.
            for file in (results / output, path):
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            fill(results, random.randrange(max(1, size // 4), max(2, size // 2)))
            done = snakemake(project, str(path.relative_to(project)))
            told = errors_of(done)
            full = [e for e in told if "disk is full" in e or "No space left" in e]
            if done.returncode == 0:
                outcome = "there was room enough"
            elif full:
                outcome = "told"
            else:
                outcome = f"failed with: {told[:1] or done.stderr[-300:]}"
                note("silently_wrong", f"a full disk during {rule}: {outcome}")
            (results / "filler").unlink()
            succeed(project, str(path.relative_to(project)))
            found[rule] = outcome
            print(f"disk full during {rule}: {outcome}", flush=True)
        check_same(reference, project, "full disks")
    return found


def fill(folder: Path, room: int) -> None:
    """Leave some bytes of a disk free."""
    with open(folder / "filler", "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
            file.flush()
    size = os.path.getsize(folder / "filler")
    free = shutil.disk_usage(folder).free
    os.truncate(folder / "filler", max(0, size - max(0, room - free)))


def take_away(results: Path) -> None:
    """Leave something to do: what is missing is only made where a target waits for it."""
    for name in ("best.json", "report/index.html"):
        (results / name).unlink()


def shift_dates(folder: Path, seconds: int) -> None:
    for path in folder.rglob("*"):
        found, by = path.lstat(), seconds * 10**9
        dates = (found.st_atime_ns + by, found.st_mtime_ns + by)
        os.utime(path, ns=dates, follow_symlinks=False)


def places(reference: Path, scratch: Path) -> dict:
    found: dict = {"disk full during": full_disk(reference, scratch)}

    project = scratch / "read-only"
    shutil.copytree(reference, project, symlinks=True)
    take_away(project / "results")
    results = project / "results"
    for action in (["--bind", results, results], ["-o", "remount,bind,ro", results]):
        subprocess.run(["mount", *action], check=True)
    try:
        done = snakemake(project)
    finally:
        subprocess.run(["umount", results], check=True)
    # Snakemake itself refuses where it finds old outputs that it could not replace.
    told = [*errors_of(done), *re.findall("Write-protected output files", done.stderr)]
    words = ("cannot write to the results", "Write-protected")
    if done.returncode == 0 or not any(word in line for word in words for line in told):
        note("silently_wrong", f"a read-only results folder: {done.stderr[-300:]}")
    succeed(project)
    check_same(reference, project, "a read-only results folder")
    found["read-only results folder"] = "told before any job; the same command went on later"

    (project / "elsewhere").mkdir()
    results.rename(project / "elsewhere/moved")
    configure(project, results="elsewhere/moved")
    done = snakemake(project, "--dry-run", "--quiet", "rules")
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    again = [name for name, _ in jobs if name not in ("all", "total", "report")]
    if done.returncode or again:
        note("lost", f"a moved results folder: {again or done.stderr[-300:]} would be done again")
    succeed(project)
    check_same(reference, project, "a moved results folder", "elsewhere/moved")
    found["moved results folder"] = "nothing was computed again but the report, which names it"

    (project / "elsewhere/moved").rename(results)
    configure(project)
    take_away(results)
    first = subprocess.Popen(
        command(), cwd=project, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
    )
    while not job_of(first) and first.poll() is None:
        time.sleep(0.05)
    done = snakemake(project, "results/report/index.html", "--forcerun", "score")
    told = errors_of(done)
    if done.returncode == 0 or not any("another run" in e for e in told):
        note("silently_wrong", f"two runs at once: {done.stderr[-300:]}")
    if first.wait():
        note("lost", "the first of two runs failed")
    check_same(reference, project, "two runs at once")
    found["two runs at once"] = "the second was refused, the first went on"

    take_away(results)
    # To all files of a project, a clock set back by a day is a date a day later.
    shift_dates(project, 86400)
    done = snakemake(project)
    told = "clock skew" in done.stderr
    if done.returncode and not told:
        note("lost", f"a clock set back: {done.stderr[-500:]}")
    shift_dates(project, -86400)
    succeed(project)
    check_same(reference, project, "a clock set back")
    found["clock set back by a day"] = (
        "Snakemake told of the clock; the same command went on when it was right"
        if told
        else "the run went on"
    )
    later = time.time() + 86400
    for path in [*(project / "audio").rglob("*.wav"), *(project / "models").rglob("*.onnx")]:
        os.utime(path, (later, later))
    done = snakemake(project, "--dry-run", "--quiet", "rules")
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    again = [name for name, _ in jobs if name not in ("all", "total")]
    if again:
        note("lost", f"files of the future: {again} would be done again")
    found["audio and models dated tomorrow"] = "nothing was computed again"
    return found


# Results that do not fit what they were made from, and what is in the way


def plan(project: Path, *options: str) -> tuple[set[str], list[str]]:
    """The rules that a dry run would do jobs of, and its errors."""
    done = snakemake(project, "--dry-run", "--quiet", "rules", *options)
    jobs = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)
    return {name for name, _ in jobs if name not in ("all", "total")}, errors_of(done)


def long_ago(path: Path) -> None:
    os.utime(path, (10**9, 10**9))


def other_weights(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_text(path: Path) -> None:
    path.write_text(path.read_text().replace("one", "ONE").replace("import", "import  ", 1))


def other_audio(path: Path) -> None:
    write_audio(path, path.stat().st_size / 32000, seed=999)


EXCHANGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "models/demo/encoder.onnx": (other_weights, "inspect"),
    "models/demo/decoder.onnx": (other_weights, "decode"),
    "models/demo/joiner.onnx": (other_weights, "convert"),
    "models/demo/tokens.txt": (other_text, "decode"),
    "audio/calibration/c1.wav": (other_audio, "index"),
    "audio/evaluation/e0.wav": (other_audio, "index"),
    "scripts/index.py": (other_text, "index"),
    "scripts/zipquant/board/fbank.py": (other_text, "features"),
    "scripts/zipquant/traces/store.py": (other_text, "traces"),
}
"""Files that get another content under a time of long ago, and a rule that has to run for it."""

CHANGED: dict[str, tuple[dict, str]] = {
    "platform": ({"platform": "rk3566"}, "quantize"),
    "seed": ({"calibration": {"rows": 6, "seed": 5}}, "sample"),
    "rows": ({"calibration": {"rows": 5}}, "sample"),
    "variant": ({"variants": {"int8": {"method": "layer"}, "fp16": None}}, "quantize"),
    "preparation": ({"preparation": {"fold_constants": True}}, "prepare"),
    "evaluation": ({"evaluation": {"one_step_chunks": 2, "long_stream": 3}}, "evaluate"),
    "long stream": ({"evaluation": {"one_step_chunks": 1, "long_stream": 4}}, "long_stream"),
    "joiner": ({"recognizer": {"joiner": "int8"}}, "convert"),
}
"""Settings that change when Snakemake's notes are lost, and a rule that has to run for each."""

VERSIONS = {"onnxruntime": "traces", "kaldi-native-fbank": "features", "rknn-toolkit2": "quantize"}
"""Libraries that get another version, and a rule that has to run for it."""

CHECKED = (
    *("model.json", "calibration/dataset.txt", "variants/int8/build.json", "best.json"),
    *("variants/int8/encoder.rknn", "recognizer/decoder.rknn", "scores/scores.json", "bundle.tar"),
)
"""Results that are damaged, and that check_results.py deletes."""


def changes(reference: Path, scratch: Path) -> dict:
    """What has changed without a new time or a note of it is planned, and nothing else is."""
    found: dict[str, int] = {}
    project = scratch / "changed"
    shutil.copytree(reference, project, symlinks=True)
    for name, (change, rule) in EXCHANGED.items():
        before = (project / name).read_bytes()
        change(project / name)
        long_ago(project / name)
        expect(project, rule, f"{name} with an old time")
        (project / name).write_bytes(before)
    found["inputs and scripts exchanged under an old time"] = len(EXCHANGED)
    # All of them have a new time now, and a new inode.
    expect(project, "", "files that were touched")
    (project / "link").symlink_to("results")
    spellings = ["./results", "results/", "models/../results", "link", str(project / "results")]
    shutil.rmtree(project / ".snakemake")
    for number, (name, (other, rule)) in enumerate(CHANGED.items()):
        for results in ["results", spellings[number % len(spellings)]]:
            configure(project, results=results, **other)
            expect(project, rule, f"another {name}, results spelled {results}")
    found["settings changed without Snakemake's notes"] = len(CHANGED)
    for results in spellings:
        configure(project, results=results)
        expect(project, "", f"results spelled {results}")
    configure(project)
    found["spellings of the results folder"] = len(spellings)
    for name, rule in VERSIONS.items():
        folder = project / f"new/{name.replace('-', '_')}-99.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 99.0\n")
        ENVIRONMENT["PYTHONPATH"] = str(project / "new")
        expect(project, rule, f"another version of {name}")
        del ENVIRONMENT["PYTHONPATH"]
        shutil.rmtree(project / "new")
    found["other versions of libraries"] = len(VERSIONS)
    found["results deleted by the check"] = check_and_plan(project)
    found["records copied with their files"] = copy_records(project)
    return found


def expect(project: Path, rule: str, after: str) -> None:
    """Note what a plan lacks, or that there is one where nothing has changed."""
    rules, errors = plan(project)
    if errors or (rule not in rules if rule else rules):
        note("silently_wrong", f"{after}: planned {sorted(rules)}, told {errors}")
    print(f"{after}: {len(rules)} rules planned", flush=True)


def check_and_plan(project: Path) -> int:
    for name in CHECKED:
        path = project / "results" / name
        before = path.read_bytes()
        record = integrity.record_of(project / "results", path)
        recorded = record.read_bytes()
        flip(path, path)
        command = [sys.executable, "scripts/check_results.py", "results"]
        done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True)
        if done.returncode != 1 or f"results/{name} was damaged" not in done.stdout:
            note("silently_wrong", f"the check does not name {name}: {done.stdout[-300:]}")
        rules, _ = plan(project)
        if path.exists() or not rules:
            note("silently_wrong", f"{name} was deleted by the check and is not made again")
        path.write_bytes(before)
        record.write_bytes(recorded)
    return len(CHECKED)


def copy_records(project: Path) -> int:
    """A file and its record in the place of another one of its kind."""
    results = project / "results"
    pairs = [
        ("traces/0.h5", "traces/1.h5"),
        ("features/calibration/0.h5", "features/calibration/1.h5"),
        ("texts/float/0.tsv", "texts/int8/0.tsv"),
        ("recognizer/decoder.rknn", "recognizer/joiner.rknn"),
    ]
    for source, copy in pairs:
        for folder in (results, results / integrity.RECORDS):
            suffix = "" if folder == results else ".tsv"
            shutil.copy2(folder / f"{source}{suffix}", folder / f"{copy}{suffix}")
        if not integrity.problem(results, results / copy):
            note("silently_wrong", f"{source} passes for {copy}")
    return len(pairs)


OWN = (
    *("bundle/precious.txt", "calibration/arrays/mine.npy", "report/index.html", "traces/0.h5"),
    *("logs/index/calibration/0.log", "variants/int8/toolkit/mine", "variants/int8/encoder.rknn"),
    *("best.json", "texts/float/0.tsv"),
)
"""Files of somebody's own at names that a run writes."""

NO_RESULTS = (
    *("scripts", ".git", ".venv/x", "audio/calibration", "audio_link", "/dev/null", "my.yaml"),
    *("a" * 300, "a/" * 2100, "$HOME/x", "~nobody-of-this-name/x"),
)
"""What is no results folder."""


def obstacles(reference: Path, scratch: Path) -> dict:
    """What is in the way and not ours stops a run, named, and stays as it is."""
    project = make_project(scratch / "obstacles")
    (project / "audio_link").symlink_to("audio/calibration")
    for number, name in enumerate(OWN):
        path = project / f"work{number}" / name
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        configure(project, results=f"work{number}")
        done = snakemake(project)
        told = errors_of(done)
        if path.read_text() != "mine" or not any(name in error for error in told):
            note("lost", f"{name} of somebody's own: {told}")
    for results in NO_RESULTS:
        configure(project, results=results)
        _, told = plan(project)
        if len(told) != 1 or not told[0].startswith("error: config: results"):
            note("silently_wrong", f"results: {results[:40]}: {told}")
    return {"files of somebody's own": len(OWN), "no results folders": len(NO_RESULTS)}


# Hostile input, and the toolkit


def inputs(reference: Path, scratch: Path) -> dict:
    folder = scratch / "hostile/input"
    folder.mkdir(parents=True)
    os.chdir(folder)
    sound = tiny_encoder(folder / "sound.onnx").read_bytes()
    shape = contract.inspect(folder / "sound.onnx")
    shapes = [(tensor.shape, tensor.dtype) for tensor in shape.inputs]
    joiner = (ROOT / "models/demo/joiner.onnx").read_bytes()
    described = b'\x00{"x": {"dtype": "int8"}}\x00\x00\x00\x08\x00\x00\x00abc=1234'
    kinds = {
        "wav and flac files": (hostile.AUDIO, hostile.feed_audio),
        "manifests": (hostile.MANIFESTS, hostile.feed_manifest),
        "tokens files": (hostile.TOKENS, hostile.feed_tokens),
        "settings": (hostile.CONFIGS, hostile.feed_config),
        "encoders of odd structure": (hostile.odd_models(folder), hostile.feed_model),
        "encoders of changed bytes": (hostile.mutated(sound), hostile.feed_model),
        "joiners of changed bytes": (hostile.mutated(joiner), hostile.feed_part),
        "calibration sets": (
            hostile.datasets(shapes),
            lambda where, example: hostile.feed_dataset(where, example, shape),
        ),
        ".rknn files": (hostile.mutated(described), hostile.feed_rknn),
    }
    found = {}
    for kind, (strategy, feed) in kinds.items():
        found[kind] = in_child(lambda s=strategy, f=feed: fuzz(s, f, folder), kind)
        if os.listdir(folder.parent) != ["input"] or (folder / "pwned").exists():
            note("silently_wrong", f"{kind}: something was written or run")
        print(f"{kind}: {found[kind]}", flush=True)
    os.chdir(ROOT)
    return found


def fuzz(strategy, feed, folder: Path) -> dict:
    count: Counter = Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=20_000,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def check(example) -> None:
        taken = feed(folder, example) == "taken"
        count["tried"] += 1
        count["used" if taken else "refused in one line"] += 1

    check()
    return dict(count)


def in_child(work: Callable[[], dict], what: str) -> dict:
    """Run in a process of its own; a crash is noted, and the peak of its memory given back."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            content = json.dumps(work()).encode()
        except BaseException as error:
            content = json.dumps({"failure": f"{type(error).__name__}: {error}"[:3000]}).encode()
        os.write(writing, content)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        content = file.read()
    _, status, used = os.wait4(child, 0)
    if not content:
        note("silently_wrong", f"{what}: crashed with {status}")
        return {}
    found = json.loads(content)
    if "failure" in found:
        note("silently_wrong", f"{what}: {found['failure']}")
    return found | {"peak_memory_mb": round(used.ru_maxrss / 1024)}


TOOLKIT = """
import sys; from pathlib import Path; from types import SimpleNamespace; from job import run
from zipquant.model import contract
from zipquant.toolkit import platforms, rknn_toolkit
def build():
    rknn_toolkit.build(model=Path(sys.argv[1]), contract=contract.Contract.load(sys.argv[2]),
        dataset=Path(sys.argv[3]), work=Path("work"), float16=lambda graph, config: None,
        scheme=platforms.Scheme("rk3562", "w8a16"))
run(SimpleNamespace(rule="quantize", log=["results/log.log"], input=[],
    output=["results/encoder.rknn"], resources=LIMITS,
    config={"results": "results", "job_hours": HOURS}), build)
"""


def toolkit(reference: Path, scratch: Path) -> dict:
    """Builds that the toolkit itself ends, or that pass a limit; all for real."""
    results = reference / "results"
    arguments = [
        str(ROOT / "models/demo/encoder.onnx"),
        str(results / "model.json"),
        str(results / "calibration/dataset.txt"),
    ]
    found = {}
    for name, limits, hours, expected in (
        ("abort inside the toolkit", "{}", 1, "killed by SIGABRT"),
        ("more memory than the limit", "{'mem_mb': 200}", 1, "more than the 200 MB of memory"),
        ("more time than the limit", "{}", 3 / 3600, "hours and was ended"),
    ):
        folder = scratch / name.replace(" ", "-")
        (folder / "results").mkdir(parents=True)
        code = TOOLKIT.replace("LIMITS", limits).replace("HOURS", str(hours))
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=folder,
            env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "scripts")},
            capture_output=True,
            timeout=600,
        )
        log = (folder / "results/log.log").read_text(errors="replace")
        told = [line for line in log.splitlines() if line.startswith("error: ")]
        if done.returncode == 0 or not any(expected in line for line in told):
            note("silently_wrong", f"{name}: {told or log[-300:]}")
        found[name] = told[-1].removeprefix("error: ").split(";")[0] if told else "nothing told"
        print(f"{name}: {found[name]}", flush=True)
    return found


CAMPAIGN = {
    "inputs": inputs,
    "toolkit": toolkit,
    "damage": damage,
    "mending": mending,
    "places": places,
    "kills": kills,
    "changes": changes,
    "obstacles": obstacles,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(CAMPAIGN)}; all by default")
    parser.add_argument("--scratch", help="a folder to work in and to keep; its reference is used")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="of killing, at most")
    chosen = parser.parse_args()
    globals()["MINUTES"] = chosen.minutes
    parts = chosen.parts or list(CAMPAIGN)
    with contextlib.ExitStack() as stack:
        scratch = Path(chosen.scratch or stack.enter_context(tempfile.TemporaryDirectory()))
        reference = scratch / "reference"
        if not reference.exists():
            succeed(make_project(scratch / "making"))
            (scratch / "making").rename(reference)
        for part in parts:
            OUTCOME.update(lost=[], silently_wrong=[])
            start = time.monotonic()
            details = CAMPAIGN[part](reference, scratch)
            print(f"{part}: {time.monotonic() - start:.0f} s", flush=True)
            write(part, details, {kind: list(found) for kind, found in OUTCOME.items()})


def write(part: str, of_part: dict, wrong_in_part: dict) -> None:
    """Sum up, and write the figures after each part; those of other parts stay."""
    known = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    details = known.get("details", {}) | {part: of_part}
    wrong = known.get("found", {}) | {part: wrong_in_part}
    figures = {
        "kills": sum(sum(kinds.values()) for kinds in details.get("kills", {}).values()),
        "damaged": sum(sum(kinds.values()) for kinds in details.get("damage", {}).values())
        + sum(details.get("mending", {}).values()),
        "bad_inputs": sum(kind.get("tried", 0) for kind in details.get("inputs", {}).values()),
        "lost": sum(len(part["lost"]) for part in wrong.values()),
        "silently_wrong": sum(len(part["silently_wrong"]) for part in wrong.values()),
        "details": details,
        "found": wrong,
    }
    FIGURES.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    print({key: value for key, value in figures.items() if isinstance(value, int)}, flush=True)


if __name__ == "__main__":
    main()
