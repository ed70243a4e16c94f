# What each audio file of a shard is, and whether it can be used.
rule index:
    input:
        lib=lib("index"),
    output:
        index=result("index/{set}/{shard}.tsv"),
    log:
        log_of("index/{set}/{shard}"),
    benchmark:
        benchmark_of("index/{set}/{shard}")
    priority: 10
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        ids=lambda w: [u.id for u in PLAN.usable(w.set, w.shard)],
        # No input, in whose name Snakemake would take <y> or {y} for a pattern.
        reads=lambda w: [u.path for u in PLAN.usable(w.set, w.shard)],
        starts=lambda w: [u.start for u in PLAN.usable(w.set, w.shard)],
        ends=lambda w: [u.end for u in PLAN.usable(w.set, w.shard)],
        cut=config["audio"]["cut"],
        unreachable=lambda w: PLAN.unreachable(w.set, w.shard),
        channels=config["audio"]["channels"],
        on_bad_file=config["audio"]["on_bad_file"],
    message:
        "Indexing {wildcards.set} audio, shard {wildcards.shard}"
    script:
        "../scripts/index.py"


# Evaluation audio that is also calibrated with, by content. It stops a run before the heavy jobs by
# its priority; none of them takes its table, so that a changed table reruns none.
rule overlap:
    input:
        calibration=all_shards("calibration", "index/{set}/{shard}.tsv"),
        evaluation=all_shards("evaluation", "index/{set}/{shard}.tsv"),
        lib=lib("overlap"),
    output:
        table=result("index/overlap.tsv"),
    log:
        log_of("overlap"),
    benchmark:
        benchmark_of("overlap")
    priority: 10
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(30),
    params:
        on_overlap=config["audio"]["on_overlap"],
    message:
        "Comparing calibration and evaluation audio"
    script:
        "../scripts/overlap.py"
