"""Rewrite the encoder's graph for the toolkit."""

from job import run
from zipquant import preparation

run(
    snakemake,
    preparation.prepare,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    dataset=snakemake.input.dataset,
    rewrites=snakemake.params.rewrites,
    output=snakemake.output.model,
    record_file=snakemake.output.record,
)
