# The runtime's log-mel features of a shard.
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
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=1000,
    params:
        channels=config["audio"]["channels"],
        tail_padding=config["audio"]["tail_padding"],
    message:
        "Computing features of {wildcards.set} audio, shard {wildcards.shard}"
    script:
        "../scripts/features.py"
