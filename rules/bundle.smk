# Everything that a board needs: the best variant, decoder, joiner, tokens, and what they are.
rule bundle:
    input:
        **converted(),
        best=rules.choose.output.best,
        scores=rules.score.output.scores,
        builds=expand(rules.quantize.output.build, variant=VARIANTS),
        encoders=expand(rules.quantize.output.rknn, variant=VARIANTS),
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
    message:
        "Putting what a board needs into {output.folder}"
    script:
        "../scripts/bundle.py"
