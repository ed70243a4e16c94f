"""Prove that restored parts of the model differ from their files by these files' rounding alone."""

from job import run
from zipquant.variants import restored

run(
    snakemake,
    restored.prove,
    contract_file=snakemake.input.contract,
    dataset=snakemake.input.dataset,
    originals=snakemake.params.originals,
    restored=snakemake.params.restored,
    record_file=snakemake.output.record,
)
