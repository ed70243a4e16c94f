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
from zipquant.audio import manifest
from zipquant.calibration import recipes
from zipquant.errors import UserError
from zipquant.jobs import processes
from zipquant.model import contract, recognizer

STARTED = time.time()
SETS = ("calibration", "evaluation")
FLOAT = "float"
LONG_AGO = 1  # in seconds since 1970
# Of them 256 rows are drawn for an int8 joiner.
JOINER_UTTERANCES = 50


wildcard_constraints:
    set="|".join(SETS),
    shard=r"\d+",
    variant=r"(?!(?:float|rknn)/)[A-Za-z0-9][A-Za-z0-9_-]*",


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


def growing(first: int):
    """A resource of which a job that is tried again gets more: `first`, twice, three times as much.

    For `mem_mb` (MB) and `runtime` (minutes) of every rule that a cluster runs. `first` is for
    shards of about an hour and an encoder of 20 M parameters, with room to spare.
    """
    return lambda wildcards, attempt: first * attempt


@cache
def imported(path: Path) -> list[Path]:
    """The library files that a Python file imports itself."""
    paths = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module == "job":
            paths.append(SCRIPTS / "job.py")
        elif node.module.split(".")[0] == "zipquant":
            package = SCRIPTS / node.module.replace(".", "/")
            if package.is_dir():
                paths += [package / f"{name.name}.py" for name in node.names]
            else:
                paths.append(package.with_suffix(".py"))
    return paths


def lib(script: str) -> list[str]:
    """All library files that a script imports, directly or through others.

    Snakemake watches the script alone; as inputs, these make a changed module rerun just the rules
    that use it, and the rerun's reason names the module.
    """
    found, todo = set(), [SCRIPTS / f"{script}.py"]
    while todo:
        paths = imported(todo.pop())
        todo += [path for path in paths if path not in found]
        found.update(paths)
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
    settings = VARIANTS[wildcards.variant]
    if settings["dtype"] == "float16":
        return {}
    ranked = {"sample": rules.sample.output.sample} if "rows" in settings else {}
    return {**rules.calibration.output, **ranked}


def searched_with(wildcards) -> dict[str, str | list[str]]:
    """What the search for float16 layers needs; nothing, where a variant has no search."""
    search = VARIANTS[wildcards.variant].get("mixed_precision")
    if not search:
        return {}
    words = recognizer_files() if search["target_wer_loss"] is not None else {}
    features = all_shards("calibration", "features/{set}/{shard}.h5")
    return {"original": config["model"]["encoder"], "features": features, **words}


def in_words(settings: dict) -> str:
    """A variant in a few words, for the console."""
    words = [settings[key] for key in ("dtype", "algorithm") if key in settings]
    if settings.get("mixed_precision"):
        words.append("float16 layers searched")
    return ", ".join(words)


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


def evaluations() -> list[str]:
    """The evaluation tables, all shards of the first variant, then of the next."""
    return [
        result(f"evaluation/{variant}/{shard}.parquet")
        for variant in VARIANTS
        for shard in shards_of("evaluation")
    ]


def verified() -> list[str]:
    """How exact the rest of a transducer is for the NPU, in the order of `converted`."""
    return [path.replace(".rknn", ".json") for path in converted().values()]


@cache
def joiner_drawn() -> frozenset[str]:
    """The utterances that calibrate an int8 joiner: a few of all audio."""
    everything = sum(SHARDED["calibration"].values(), [])
    return frozenset(u.id for u in manifest.cap(everything, JOINER_UTTERANCES))


def joiner_utterances(shard: str) -> list[str]:
    """Those of a shard among them."""
    return [u.id for u in usable("calibration", shard) if u.id in joiner_drawn()]


def joiner_calibration(wildcards) -> dict[str, list[str]]:
    """Encoder outputs that an int8 joiner is calibrated with; nothing for a float16 part."""
    if wildcards.part == "decoder" or not INT8_JOINER:
        return {}
    return {
        "encoded": [
            result(f"recognizer/encoded/{shard}.h5") for shard in joiner_shards()
        ]
    }


def joiner_shards() -> list[int]:
    """The shards that an int8 joiner is calibrated with."""
    return [shard for shard in shards_of("calibration") if joiner_utterances(shard)]


def joiner_steps(wildcards) -> dict[str, str]:
    """What the simulator of an int8 joiner is set up from; nothing for a float16 one."""
    if not INT8_JOINER:
        return {}
    return {"joiner_steps": result("recognizer/toolkit/joiner")}


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


def lineage_settings() -> dict[str, str]:
    """Those of the first quantized variant; each recipe's set is taken whole, all of it int8."""
    settings = VARIANTS[candidates()[0]]
    left = ("rows", "mixed_precision")
    return {key: value for key, value in settings.items() if key not in left}


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


def templates(*patterns: str) -> list[str]:
    """Templates of pages; a changed one writes the page anew."""
    folder = SCRIPTS / "zipquant/templates"
    found = [path for pattern in patterns for path in folder.glob(f"{pattern}.j2")]
    return sorted(os.path.relpath(path) for path in found)


def build_failed_ones_again() -> None:
    """Make Snakemake run the builds anew that failed in an earlier run, also in a dry run's plan.

    A failure is recorded as a result, so that the other variants go on, but must not be kept as
    one: the next run may have more memory, or another toolkit. Nor must a build whose encoder.rknn
    has been deleted. With a time of long ago, their build.json is older than the rule's script.
    """
    for variant in VARIANTS:
        build = Path(result(f"variants/{variant}/build.json"))
        if not build.exists():
            continue
        encoder = build.with_name("encoder.rknn")
        if not encoder.exists() or '"failure":' in build.read_text(errors="replace"):
            os.utime(build, (LONG_AGO, LONG_AGO))


def report_jobs() -> list[str]:
    """The jobs of the rules that end in the report, as their benchmark files are called."""
    shards = {name: shards_of(name) for name in SETS}
    evaluated = [
        f"{name}/{shard}" for name in VARIANTS for shard in shards["evaluation"]
    ]
    jobs = ["inspect", "overlap", "sample", "calibration", "prepare", "prove", "choose"]
    jobs += ["score", "verify", *(f"convert/{part}" for part in converted())]
    if INT8_JOINER:
        jobs += [f"encode_calibration/{shard}" for shard in joiner_shards()]
    for stage in ("index", "features"):
        jobs += [f"{stage}/{name}/{shard}" for name in SETS for shard in shards[name]]
    jobs += [f"traces/{shard}" for shard in shards["calibration"]]
    jobs += [
        f"{stage}/{variant}"
        for stage in ("quantize", "long_stream")
        for variant in VARIANTS
    ]
    jobs += [f"evaluate/{job}" for job in evaluated]
    jobs += [
        f"{stage}/{s}"
        for stage in ("encode", "decode_rknn")
        for s in shards["evaluation"]
    ]
    jobs += [f"decode/{FLOAT}/{shard}" for shard in shards["evaluation"]]
    return [*jobs, *(f"decode/{job}" for job in evaluated)]


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
    INT8_JOINER = bool(converted()) and config["recognizer"]["joiner"] != "float16"
    WARNINGS = check_transcripts()
except UserError as error:
    stop(error)

if workflow.is_main_process:
    processes.announce()
    build_failed_ones_again()
    for warning in WARNINGS:
        print(f"warning: {warning}", file=sys.stderr)
