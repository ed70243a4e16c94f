# The encoder of one variant, built by rknn-toolkit2.
rule quantize:
    input:
        unpack(calibration_set),
        model=ancient(config["model"]["encoder"]),
        contract=rules.inspect.output.contract,
        overlap=ancient(rules.overlap.output.table),
        lib=lib("quantize"),
    output:
        rknn=result("variants/{variant}/encoder.rknn"),
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
        work=lambda w, output: os.path.dirname(output.rknn),
        platform=config["platform"],
        context_size=context_size(),
        settings=lambda w: VARIANTS[w.variant],
    message:
        "Building variant {wildcards.variant} for {params.platform}: {params.settings}"
    script:
        "../scripts/quantize.py"
