# The log-mel features of a shard: the runtime's, unless the recipe has another front end.
rule features:
    input:
        index=result("index/{set}/{shard}.tsv"),
        lib=lib("features"),
    output:
        features=result("features/{set}/{shard}.h5"),
    log:
        log_of("features/{set}/{shard}"),
    benchmark:
        benchmark_of("features/{set}/{shard}")
    # What the longest jobs wait for goes first: the builds that search for float16 layers.
    priority: 8
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        channels=config["audio"]["channels"],
        tail_padding=config["audio"]["tail_padding"],
        # A model is evaluated with what the board hears, whatever it was calibrated with.
        front_end=lambda w: PLAN.front_end(
            PLAN.recipe.front_end if w.set == "calibration" else "kaldi"
        ),
    message:
        "Computing features of {wildcards.set} audio, shard {wildcards.shard}, {params.front_end[name]}"
    script:
        "../scripts/features.py"
