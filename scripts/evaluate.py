"""Evaluate a variant on a shard of the evaluation audio, in the simulator or on a board."""

from job import run
from zipquant.evaluation import encoder_error

run(
    snakemake,
    encoder_error.evaluate_shard,
    model=snakemake.input.model,
    prepared=snakemake.input.prepared,
    contract_file=snakemake.input.contract,
    features=snakemake.input.features,
    work=snakemake.params.work,
    table_file=snakemake.output.table,
    encoded_file=snakemake.output.encoded,
    time_file=snakemake.output.time,
    one_step_chunks=snakemake.params.one_step_chunks,
    target=snakemake.params.target,
    device_id=snakemake.params.device_id,
    histograms_file=snakemake.output.histograms,
)
