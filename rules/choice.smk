# Which variant is the best, and why.
rule choose:
    input:
        **transcripts(),
        contract=rules.inspect.output.contract,
        proof=rules.prove.output.record,
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        evaluations=evaluations(),
        times=expand(
            rules.evaluate.output.time,
            variant=VARIANTS,
            shard=PLAN.shards_of("evaluation"),
        ),
        layers=expand(rules.quantize.output.layers, variant=VARIANTS),
        texts=texts_of(FLOAT, *VARIANTS) if PLAN.recognizer else [],
        heard=heard_of(FLOAT, *VARIANTS),
        board_result=config["evaluation"]["board_result"] or [],
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
        keywords=PLAN.keywords,
        rule=config["choose"],
        limits=config["verdict"],
        platform=config["platform"],
        board_costs=config["evaluation"]["board_costs"],
    message:
        "Choosing the best variant"
    script:
        "../scripts/choose.py"
