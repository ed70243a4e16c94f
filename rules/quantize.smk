# One model for each variant.


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


def costs_for_search(variants: list[str]) -> dict[str, float] | None:
    """What layers cost on the user's board, where one of some variants has a search."""
    searched = any(VARIANTS[name].get("mixed_precision") for name in variants)
    return config["evaluation"]["board_costs"] if searched else None


def in_words(settings: dict) -> str:
    """A variant in a few words, for the console."""
    words = [settings[key] for key in ("dtype", "algorithm") if key in settings]
    if settings.get("mixed_precision"):
        words.append("after a search for float16 layers")
    return ", ".join(words)


# The encoder of one variant, built by rknn-toolkit2.
rule quantize:
    input:
        unpack(calibration_set),
        unpack(searched_with),
        model=rules.prepare.output.model,
        native=[rules.prepare.output.native, rules.prepare.output.verdict],
        contract=rules.inspect.output.contract,
        lib=lib("quantize"),
    output:
        # What the build has made, or why it failed.
        build=result("variants/{variant}/build.json"),
        layers=result("variants/{variant}/layers.tsv"),
        # From these the simulator is set up again without a second calibration.
        toolkit=directory(result("variants/{variant}/toolkit")),
    log:
        log_of("quantize/{variant}"),
    benchmark:
        benchmark_of("quantize/{variant}")
    # Before evaluations of variants that are built already.
    priority: 5
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        work=lambda w, output: os.path.dirname(output.build),
        # Only if the toolkit could build one, so it is no output that Snakemake would insist on.
        also=[result("variants/{variant}/encoder.rknn")],
        platform=config["platform"],
        toolkit=config["toolkit"],
        context_size=context_size(),
        settings=lambda w: VARIANTS[w.variant],
        board_costs=lambda w: costs_for_search([w.variant]),
        # For the message below; in one line.
        summary=lambda w: in_words(VARIANTS[w.variant]),
    message:
        "Building variant {wildcards.variant} for {params.platform}: {params.summary}"
    script:
        "../scripts/quantize.py"
