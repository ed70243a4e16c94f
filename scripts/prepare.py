"""Rewrite the encoder's graph for the toolkit."""

from job import run
from zipquant.variants import preparation

run(
    snakemake,
    preparation.prepare,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    rewrites=snakemake.params.rewrites,
    output=snakemake.output.model,
)
