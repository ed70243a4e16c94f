# The encoder of one variant, built by rknn-toolkit2.
rule quantize:
    input:
        unpack(calibration_set),
        unpack(searched_with),
        model=rules.prepare.output.model,
        contract=rules.inspect.output.contract,
        lib=lib("quantize"),
    output:
        # What the build has made, or why it failed. Beside it is encoder.rknn, but only if the
        # toolkit could build one, so it is no output that Snakemake would insist on.
        build=result("variants/{variant}/build.json"),
        # From these the simulator is set up again without a second calibration.
        toolkit=directory(result("variants/{variant}/toolkit")),
    log:
        log_of("quantize/{variant}"),
    benchmark:
        benchmark_of("quantize/{variant}")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
    params:
        work=lambda w, output: os.path.dirname(output.build),
        platform=config["platform"],
        context_size=context_size(),
        settings=lambda w: VARIANTS[w.variant],
        # For the message below; in one line.
        summary=lambda w: in_words(VARIANTS[w.variant]),
    message:
        "Building variant {wildcards.variant} for {params.platform}: {params.summary}"
    script:
        "../scripts/quantize.py"
