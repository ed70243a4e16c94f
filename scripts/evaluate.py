"""Evaluate a variant on a shard of the evaluation audio, in the toolkit's simulator."""

from job import run
from zipquant import evaluation

run(
    snakemake,
    evaluation.evaluate_shard,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    features=snakemake.input.features,
    work=snakemake.params.work,
    table_file=snakemake.output.table,
    encoded_file=snakemake.output.encoded,
    one_step_chunks=snakemake.params.one_step_chunks,
)
