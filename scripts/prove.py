"""Prove on the calibration set that the prepared encoder computes the same as the original."""

from job import run
from zipquant.variants import preparation

run(
    snakemake,
    preparation.prove,
    model=snakemake.input.model,
    prepared=snakemake.input.prepared,
    contract_file=snakemake.input.contract,
    dataset=snakemake.input.dataset,
    rewrites=snakemake.params.rewrites,
    record_file=snakemake.output.record,
)
