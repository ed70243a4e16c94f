import atexit

from snakemake.utils import min_version

min_version("9.0")


# It reads config.yaml and puts what is given over it.
include: "rules/common.smk"
include: "rules/retries.smk"
include: "rules/console.smk"
include: "rules/restore.smk"
include: "rules/inspect.smk"
include: "rules/index.smk"
include: "rules/features.smk"
include: "rules/traces.smk"
include: "rules/calibration.smk"
include: "rules/prepare.smk"
include: "rules/quantize.smk"
include: "rules/evaluation.smk"
include: "rules/recognition.smk"
include: "rules/choice.smk"
include: "rules/transducer.smk"
include: "rules/report.smk"
include: "rules/bundle.smk"
include: "rules/lineage.smk"
include: "rules/ledger.smk"


# A cluster runs none of these: they take seconds, less than a place in its queue.
localrules:
    all,
    inspect,
    overlap,
    transcripts,
    choose,
    score,
    bundle,


rule all:
    default_target: True
    input:
        rules.report.output,
        rules.bundle.output,
    message:
        "Everything is made"


onstart:
    hold_results()
    look_at_inputs()
    install_toolkit()


onsuccess:
    note_other_settings()
    atexit.register(show_summary)
    # A variant that could not be built is no failure of the run.
    atexit.register(show_errors)


onerror:
    # What is registered last is run first.
    atexit.register(show_next_command)
    atexit.register(show_errors)
