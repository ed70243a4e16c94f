# What a board runs.

# The setting where a variant does not give it, as in zipquant.variants.build.Settings.
NPU_NATIVE = True


def calibrated_with() -> dict[str, str | list[str]]:
    """What any of the variants is calibrated and searched with."""
    if all(settings["dtype"] == "float16" for settings in VARIANTS.values()):
        return {}
    found = {**rules.calibration.output, "sample": rules.sample.output.sample}
    searches = [
        s["mixed_precision"] for s in VARIANTS.values() if s.get("mixed_precision")
    ]
    if searches:
        found["features"] = all_shards("calibration", "features/{set}/{shard}.h5")
    if any(search["target_wer_loss"] is not None for search in searches):
        found |= recognizer_files()
    return found


# The best variant from the encoder as it is: a board shows which of the two is faster.
rule plain_encoder:
    input:
        **calibrated_with(),
        best=rules.choose.output.best,
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        model=rules.prepare.output.model,
        original=config["model"]["encoder"],
        contract=rules.inspect.output.contract,
        lib=lib("plain_encoder"),
    output:
        build=result("plain_encoder/build.json"),
        toolkit=directory(result("plain_encoder/toolkit")),
    log:
        log_of("plain_encoder"),
    benchmark:
        benchmark_of("plain_encoder")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        work=lambda w, output: os.path.dirname(output.build),
        # Only if there are two forms to compare, and the toolkit could build this one.
        also=[result("plain_encoder/encoder.rknn"), result("plain_encoder/layers.tsv")],
        context_size=context_size(),
        settings=VARIANTS,
        board_costs=costs_for_search(list(VARIANTS)),
    message:
        "Building the best variant from the encoder as it is"
    script:
        "../scripts/plain_encoder.py"


def compared_with() -> list[str]:
    """The build of the best variant from the encoder as it is, where there may be another form."""
    native = any(
        settings.get("npu_native", NPU_NATIVE) for settings in VARIANTS.values()
    )
    return (
        rules.plain_encoder.output
        if native and config["bundle"]["plain_encoder"]
        else []
    )


# Everything that a board needs: the best variant, decoder, joiner, tokens, and what they are.
rule bundle:
    input:
        **converted(),
        verified=verified(),
        best=rules.choose.output.best,
        contract=rules.inspect.output.contract,
        scores=rules.score.output.scores if PLAN.recognizer else [],
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        tokens=recognizer_files().get("tokens", []),
        keywords=config["model"]["keywords"] or [],
        plain=compared_with(),
        restored=rules.prove_restored.output.record if PLAN.originals else [],
        templates=templates("bundle.md"),
        lib=lib("bundle"),
    output:
        folder=directory(result("bundle")),
        archive=result("bundle.tar"),
    log:
        log_of("bundle"),
    benchmark:
        benchmark_of("bundle")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        variants=list(VARIANTS),
        audio={key: config["audio"][key] for key in ("channels", "tail_padding")},
    message:
        "Putting what a board needs into {output.folder}"
    script:
        "../scripts/bundle.py"
