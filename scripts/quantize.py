"""Build a variant of the encoder with rknn-toolkit2."""

from pathlib import Path

from job import run
from zipquant.variants import build

# No output that Snakemake would delete, and must not outlive a rebuild that fails for any cause.
Path(snakemake.params.work, build.ENCODER).unlink(missing_ok=True)

run(
    snakemake,
    build.attempt,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    dataset=snakemake.input.get("dataset"),
    sample=snakemake.input.get("sample"),
    work=snakemake.params.work,
    platform=snakemake.params.platform,
    context_size=snakemake.params.context_size,
    original=snakemake.input.get("original"),
    features=snakemake.input.get("features", []),
    recognizer_files={
        name: snakemake.input[name]
        for name in ("tokens", "decoder", "joiner")
        if snakemake.input.get(name)
    },
    **snakemake.params.settings,
)
