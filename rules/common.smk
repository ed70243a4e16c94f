# Shared by all rules: the checked configuration, paths, shards, and what a rule depends on.
# Runs at every start, so it imports nothing heavy but the check of the model.

import ast
import os
import sys
import time
from functools import cache
from pathlib import Path

SCRIPTS = Path(workflow.basedir) / "scripts"
sys.path.insert(0, str(SCRIPTS))

from zipquant import config as configuration
from zipquant import contract, manifest, processes, recipes, recognizer
from zipquant.errors import UserError

STARTED = time.time()
SETS = ("calibration", "evaluation")
FLOAT = "float"


wildcard_constraints:
    set="|".join(SETS),
    shard=r"\d+",
    variant=r"[A-Za-z0-9][A-Za-z0-9_-]*",


def stop(error: UserError) -> None:
    """End with one plain message, before any job."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(1)


def result(path: str) -> str:
    return f"{config['results']}/{path}"


def log_of(path: str) -> str:
    return result(f"logs/{path}.log")


def benchmark_of(path: str) -> str:
    return result(f"benchmarks/{path}.tsv")


@cache
def lib(script: str) -> list[str]:
    """All library files that a script imports, directly or through others.

    Snakemake watches the script alone; as inputs, these make a changed module rerun just the rules
    that use it, and the rerun's reason names the module.
    """
    found, todo = set(), [SCRIPTS / f"{script}.py"]
    while todo:
        for node in ast.walk(ast.parse(todo.pop().read_text())):
            if not isinstance(node, ast.ImportFrom) or node.module is None:
                continue
            if node.module == "job":
                names = [SCRIPTS / "job.py"]
            elif node.module == "zipquant":
                names = [
                    SCRIPTS / "zipquant" / f"{name.name}.py" for name in node.names
                ]
            elif node.module.startswith("zipquant."):
                names = [SCRIPTS / f"{node.module.replace('.', '/')}.py"]
            else:
                continue
            todo += [path for path in names if path not in found]
            found.update(names)
    # Relative: moving the whole folder elsewhere reruns nothing.
    return sorted(os.path.relpath(path) for path in found)


def usable(name: str, shard: str) -> list[manifest.Utterance]:
    """The utterances of a shard but for those whose files Snakemake cannot name."""
    return [u for u in SHARDED[name].get(int(shard), []) if not u.problem]


def unreachable(name: str, shard: str) -> dict[str, str]:
    """Those others: why each is left out, by its path."""
    odd = [u for u in SHARDED[name].get(int(shard), []) if u.problem]
    return {manifest.shown(u.path): u.problem for u in odd}


def shards_of(name: str) -> list[int]:
    """The shards that hold audio; the empty ones of a small set need no jobs."""
    return sorted(SHARDED[name])


def all_shards(name: str, pattern: str) -> list[str]:
    return [result(pattern.format(set=name, shard=shard)) for shard in shards_of(name)]


def calibration_set(wildcards) -> dict[str, str]:
    """What a variant is calibrated with: nothing, where it is not quantized."""
    if VARIANTS[wildcards.variant]["dtype"] == "float16":
        return {}
    return dict(rules.calibration.output.items())


def recognizer_files() -> dict[str, str]:
    """The files that make text of encoder outputs, by what they are."""
    if RECOGNIZER is None:
        return {}
    parts = {"decoder": RECOGNIZER.decoder, "joiner": RECOGNIZER.joiner}
    paths = {name: part.path for name, part in parts.items() if part}
    return {"tokens": RECOGNIZER.tokens, **paths}


def context_size() -> int | None:
    """Tokens that the decoder looks back; None where there is no decoder."""
    if RECOGNIZER is None or RECOGNIZER.decoder is None:
        return None
    return RECOGNIZER.decoder.inputs[0].shape[1]


def transcripts() -> dict[str, str]:
    """The evaluation manifest; a folder has no transcripts."""
    source = config["audio"]["evaluation"]
    return {"transcripts": source} if os.path.isfile(source) else {}


def candidates() -> list[str]:
    """The variants that the best is chosen from: the quantized ones, if there are any."""
    quantized = [n for n, s in VARIANTS.items() if s["dtype"] != "float16"]
    return quantized or list(VARIANTS)


def scored() -> list[str]:
    """All models that texts are made with; `rknn` is the best variant with all three in RKNN."""
    transducer = RECOGNIZER is not None and RECOGNIZER.decoder is not None
    return [FLOAT, *VARIANTS, *(["rknn"] if transducer else [])]


def converted() -> dict[str, str]:
    """The rest of a transducer for the NPU, by what it is."""
    if "rknn" not in scored():
        return {}
    return {part: result(f"recognizer/{part}.rknn") for part in ("decoder", "joiner")}


def texts_of(*models: str) -> list[str]:
    """The texts of some models, all shards of the first, then of the next."""
    return [
        result(f"texts/{model}/{shard}.tsv")
        for model in models
        for shard in shards_of("evaluation")
    ]


def check_transcripts() -> list[str]:
    """Warn of transcripts that the model cannot produce; refuse them where most are so."""
    texts = {
        u.id: u.text for us in SHARDED["evaluation"].values() for u in us if u.text
    }
    if RECOGNIZER is None or not texts:
        return []
    unknown = recognizer.unspeakable(texts, RECOGNIZER)
    if not unknown:
        return []
    name, words = next(iter(unknown.items()))
    message = (
        f"{config['audio']['evaluation']}: {len(unknown)} of {len(texts)} transcripts hold words "
        f"that the tokens in {RECOGNIZER.tokens} cannot spell, which count as errors; the first "
        f"is '{words[0]}' in '{name}'"
    )
    if 2 * len(unknown) > len(texts):
        raise UserError(
            f"{message}. Write the transcripts as the model writes (numbers as words, no "
            "punctuation), or set model.tokens to the tokens of the right model"
        )
    return [message]


def of_front_end(front_end: str, pattern: str) -> list[str]:
    """A front end's files of all shards; those of the configured one are made anyway."""
    folder = "" if front_end == RECIPE.front_end else f"lineage/{front_end}/"
    paths = [pattern.format(shard=shard) for shard in shards_of("calibration")]
    return [f"{folder}{path}" for path in paths]


def features_of(front_end: str) -> list[str]:
    paths = of_front_end(front_end, "features/calibration/{shard}.h5")
    return [result(path) for path in paths]


def traces_of(front_end: str, suffix: str) -> list[str]:
    paths = of_front_end(front_end, f"traces/{{shard}}{suffix}")
    return [result(path) for path in paths]


def recipe_of(wildcards) -> recipes.Recipe:
    return recipes.RECIPES[wildcards.recipe]


def recipe_file(name: str, file: str) -> str:
    return result(f"lineage/{name}/{file}")


def recipe_benchmarks(name: str) -> list[str]:
    """The benchmark files of all jobs that a recipe's calibration set needs."""
    recipe = recipes.RECIPES[name]
    patterns = ["features/calibration/{shard}"]
    if recipe.states == "real":
        patterns.append("traces/{shard}")
    shared = [of_front_end(recipe.front_end, pattern) for pattern in patterns]
    jobs = [*sum(shared, []), f"lineage/{name}/sample", f"lineage/{name}/calibration"]
    return [benchmark_of(job) for job in jobs]


def made(name: str) -> dict:
    """The files of a recipe, as `zipquant.lineage.Made` has them."""
    front_end = recipes.RECIPES[name].front_end
    return {
        "dataset": recipe_file(name, "dataset.txt"),
        "sample": recipe_file(name, "sample.tsv"),
        "features": features_of(front_end),
        "tables": traces_of(front_end, ".parquet"),
        "benchmarks": recipe_benchmarks(name),
        "verdict": recipe_file(name, "verdict.json"),
        "work": recipe_file(name, "variant"),
    }


def made_files() -> list[str]:
    entries = [entry for name in recipes.RECIPES for entry in made(name).values()]
    lists = [[entry] if isinstance(entry, str) else entry for entry in entries]
    return sorted(set(sum(lists, [])))


def templates(*names: str) -> list[str]:
    """Templates of pages; a changed one writes the page anew."""
    return [os.path.relpath(SCRIPTS / f"zipquant/{name}.j2") for name in names]


def show_summary() -> None:
    """Print the report's lines, at exit, so that they come last."""
    summary = Path(result("report/summary.txt"))
    if summary.exists():
        print(f"report: {result('report/index.html')}", file=sys.stderr)
        print(summary.read_text(), end="", file=sys.stderr)


def show_errors() -> None:
    """Repeat the errors of this run's jobs at the end, where they are looked for."""
    for log in sorted(Path(result("logs")).rglob("*.log")):
        if log.stat().st_mtime < STARTED:
            continue
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("error: "):
                print(f"{line}\n  (log: {log})", file=sys.stderr)


def hold_results() -> None:
    """Keep a second run out of the results folder; the lock ends with this process."""
    global HELD
    try:
        HELD = processes.hold(config["results"])
    except UserError as error:
        stop(error)


def shard_audio(name: str) -> dict[int, list[manifest.Utterance]]:
    sharded = {}
    found = manifest.read(config["audio"][name])
    if name == "evaluation":
        found = manifest.cap(found, config["evaluation"]["max_utterances"])
    for utterance in found:
        shard = manifest.shard_of(utterance.id, config["audio"]["shards"][name])
        sharded.setdefault(shard, []).append(utterance)
    return sharded


try:
    configuration.validate(config)
    configuration.check_results(config, workflow.basedir)
    RECIPE = recipes.resolve(config["calibration"])
    # A wrong model is told at once, also by a dry run; the rule `inspect` tries it as well.
    RECOGNIZER = recognizer.find(
        config["model"],
        contract.inspect(config["model"]["encoder"], config["model"]["state_outputs"]),
    )
    SHARDED = {name: shard_audio(name) for name in SETS}
    VARIANTS = {
        name: settings for name, settings in config["variants"].items() if settings
    }
    WARNINGS = check_transcripts()
except UserError as error:
    stop(error)

if workflow.is_main_process:
    processes.announce()
    for warning in WARNINGS:
        print(f"warning: {warning}", file=sys.stderr)
