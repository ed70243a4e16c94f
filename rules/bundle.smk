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
