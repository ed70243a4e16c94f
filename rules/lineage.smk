# `snakemake lineage`: all recipes on the configured model and audio, compared in one table.

from zipquant.calibration import recipes

# Those with features that the model takes.
RECIPES = {
    name: recipe
    for name, recipe in recipes.RECIPES.items()
    if plan.takes(PLAN.encoder, recipe)
}


wildcard_constraints:
    recipe="|".join(RECIPES),
    front_end="|".join({recipe.front_end for recipe in RECIPES.values()}),


def of_front_end(front_end: str, pattern: str) -> list[str]:
    """A front end's files of all shards; those of the configured one are made anyway."""
    folder = "" if front_end == PLAN.recipe.front_end else f"lineage/{front_end}/"
    paths = [pattern.format(shard=shard) for shard in PLAN.shards_of("calibration")]
    return [f"{folder}{path}" for path in paths]


def features_of(front_end: str) -> list[str]:
    paths = of_front_end(front_end, "features/calibration/{shard}.h5")
    return [result(path) for path in paths]


def traces_of(front_end: str, suffix: str) -> list[str]:
    paths = of_front_end(front_end, f"traces/{{shard}}{suffix}")
    return [result(path) for path in paths]


def recipe_of(wildcards) -> recipes.Recipe:
    return RECIPES[wildcards.recipe]


def recipe_file(name: str, file: str) -> str:
    return result(f"lineage/{name}/{file}")


def recipe_benchmarks(name: str) -> list[str]:
    """The benchmark files of all jobs that a recipe's calibration set needs."""
    recipe = RECIPES[name]
    patterns = ["features/calibration/{shard}"]
    if recipe.states == "real":
        patterns.append("traces/{shard}")
    shared = [of_front_end(recipe.front_end, pattern) for pattern in patterns]
    jobs = [*sum(shared, []), f"lineage/{name}/sample", f"lineage/{name}/calibration"]
    return [benchmark_of(job) for job in jobs]


def lineage_settings() -> dict[str, str]:
    """Those of the first quantized variant; each recipe's set is taken whole, all of it int8."""
    quantized = [s for s in VARIANTS.values() if s["dtype"] != "float16"]
    settings = next(iter(quantized or VARIANTS.values()))
    left = ("rows", "mixed_precision")
    return {key: value for key, value in settings.items() if key not in left}


def made(name: str) -> dict:
    """The files of a recipe, as `zipquant.lineage.Made` has them."""
    front_end = RECIPES[name].front_end
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
    """The files of all recipes."""
    entries = [entry for name in RECIPES for entry in made(name).values()]
    lists = [[entry] if isinstance(entry, str) else entry for entry in entries]
    return sorted(set(sum(lists, [])))


use rule features as lineage_features with:
    input:
        index=result("index/calibration/{shard}.tsv"),
        lib=lib("features"),
    output:
        features=result("lineage/{front_end}/features/calibration/{shard}.h5"),
    log:
        log_of("lineage/{front_end}/features/calibration/{shard}"),
    benchmark:
        benchmark_of("lineage/{front_end}/features/calibration/{shard}")
    params:
        channels=config["audio"]["channels"],
        tail_padding=config["audio"]["tail_padding"],
        front_end=lambda w: PLAN.front_end(w.front_end),
    message:
        "Computing {wildcards.front_end} features, shard {wildcards.shard}"


use rule traces as lineage_traces with:
    input:
        model=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        features=rules.lineage_features.output.features,
        lib=lib("traces"),
    output:
        trace=result("lineage/{front_end}/traces/{shard}.h5"),
        table=result("lineage/{front_end}/traces/{shard}.parquet"),
    log:
        log_of("lineage/{front_end}/traces/{shard}"),
    benchmark:
        benchmark_of("lineage/{front_end}/traces/{shard}")
    message:
        "Tracing {wildcards.front_end} features, shard {wildcards.shard}"


use rule sample as lineage_sample with:
    input:
        tables=lambda w: traces_of(recipe_of(w).front_end, ".parquet"),
        contract=rules.inspect.output.contract,
        lib=lib("sample"),
    output:
        sample=recipe_file("{recipe}", "sample.tsv"),
        coverage=recipe_file("{recipe}", "coverage.tsv"),
        outliers=recipe_file("{recipe}", "outliers.tsv"),
    log:
        log_of("lineage/{recipe}/sample"),
    benchmark:
        benchmark_of("lineage/{recipe}/sample")
    params:
        strategy=lambda w: recipe_of(w).strategy,
        guard=lambda w: recipe_of(w).front_end == "kaldi",
        rows=config["calibration"]["rows"],
        seed=config["calibration"]["seed"],
    message:
        "Sampling for recipe {wildcards.recipe}"


use rule calibration as lineage_calibration with:
    input:
        sample=rules.lineage_sample.output.sample,
        traces=lambda w: traces_of(recipe_of(w).front_end, ".h5"),
        contract=rules.inspect.output.contract,
        lib=lib("calibration"),
    output:
        dataset=recipe_file("{recipe}", "dataset.txt"),
        arrays=directory(recipe_file("{recipe}", "arrays")),
    log:
        log_of("lineage/{recipe}/calibration"),
    benchmark:
        benchmark_of("lineage/{recipe}/calibration")
    params:
        states=lambda w: recipe_of(w).states,
    message:
        "Writing the calibration set of recipe {wildcards.recipe}"


# The model that a recipe gives, evaluated; or why none can be built from it.
rule lineage_build:
    input:
        **recognizer_files(),
        model=config["model"]["encoder"],
        prepared=rules.prepare.output.model,
        native=[rules.prepare.output.native, rules.prepare.output.verdict],
        contract=rules.inspect.output.contract,
        dataset=rules.lineage_calibration.output.dataset,
        arrays=rules.lineage_calibration.output.arrays,
        features=all_shards("evaluation", "features/{set}/{shard}.h5"),
        lib=lib("lineage_build"),
    output:
        verdict=recipe_file("{recipe}", "verdict.json"),
        work=directory(recipe_file("{recipe}", "variant")),
    log:
        log_of("lineage/{recipe}/build"),
    benchmark:
        benchmark_of("lineage/{recipe}/build")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(240),
    params:
        platform=config["platform"],
        toolkit=config["toolkit"],
        # The first quantized variant; only what it is calibrated with differs.
        settings=lineage_settings(),
        one_step_chunks=config["evaluation"]["one_step_chunks"],
    message:
        "Building and evaluating the model of recipe {wildcards.recipe}"
    script:
        "../scripts/lineage_build.py"


rule lineage:
    input:
        **transcripts(),
        made=made_files(),
        contract=rules.inspect.output.contract,
        proof=rules.prove.output.record,
        features=features_of("kaldi"),
        tables=traces_of("kaldi", ".parquet"),
        float_texts=texts_of(FLOAT) if PLAN.recognizer else [],
        lib=lib("lineage"),
    output:
        table=result("lineage.tsv"),
        markdown=result("lineage.md"),
    log:
        log_of("lineage"),
    benchmark:
        benchmark_of("lineage")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        made={name: made(name) for name in RECIPES},
    message:
        "Comparing all recipes in {output.table}"
    script:
        "../scripts/lineage.py"
