"""Build a variant from a recipe's calibration set and evaluate it."""

from job import run
from zipquant import lineage

run(
    snakemake,
    lineage.build,
    model=snakemake.input.model,
    prepared=snakemake.input.prepared,
    contract_file=snakemake.input.contract,
    dataset=snakemake.input.dataset,
    features=snakemake.input.features,
    work=snakemake.output.work,
    verdict_file=snakemake.output.verdict,
    platform=snakemake.params.platform,
    settings=snakemake.params.settings,
    one_step_chunks=snakemake.params.one_step_chunks,
    recognizer={
        part: path
        for part in ("tokens", "decoder", "joiner")
        if (path := snakemake.input.get(part))
    },
)
