# Which variant is the best, and why.
rule choose:
    input:
        **transcripts(),
        contract=rules.inspect.output.contract,
        proof=rules.prove.output.record,
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        evaluations=evaluations(),
        texts=texts_of(FLOAT, *VARIANTS) if PLAN.recognizer else [],
        lib=lib("choose"),
    output:
        best=result("best.json"),
    log:
        log_of("choose"),
    benchmark:
        benchmark_of("choose")
    conda:
        "../envs/zipquant.yaml"
    threads: 1
    resources:
        mem_mb=growing(1000),
        runtime=growing(60),
    params:
        variants=list(VARIANTS),
        rule=config["choose"],
        limits=config["verdict"],
    message:
        "Choosing the best variant"
    script:
        "../scripts/choose.py"
