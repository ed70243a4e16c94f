"""Hostile input, and builds that the toolkit itself ends."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, given, settings

from helpers import hostile
from helpers.models import tiny_encoder
from project import ENVIRONMENT, ROOT, note
from zipquant.model import contract

EXAMPLES = 1500
"""Hostile inputs of each kind."""


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
        ("abort inside the toolkit", "{}", 1, "rknn-toolkit2 aborted the process (SIG"),
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
        reported = [line for line in log.splitlines() if line.startswith("error: ")]
        if done.returncode == 0 or not any(expected in line for line in reported):
            note("silently_wrong", f"{name}: {reported or log[-300:]}")
        found[name] = (
            reported[-1].removeprefix("error: ").split(";")[0] if reported else "nothing reported"
        )
        print(f"{name}: {found[name]}", flush=True)
    return found
