import atexit

from snakemake.utils import min_version

min_version("9.0")


configfile: "config.yaml"


include: "rules/common.smk"
include: "rules/console.smk"
include: "rules/inspect.smk"
include: "rules/index.smk"
include: "rules/features.smk"
include: "rules/traces.smk"
include: "rules/calibration.smk"
include: "rules/quantize.smk"
include: "rules/evaluation.smk"
include: "rules/recognition.smk"
include: "rules/report.smk"
include: "rules/bundle.smk"
include: "rules/lineage.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        rules.report.output,
        rules.bundle.output if RECOGNIZER else [],
    message:
        "Everything is made"


onstart:
    hold_results()


onsuccess:
    atexit.register(show_summary)


onerror:
    show_errors()
