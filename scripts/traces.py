"""Trace a shard: all its chunks with the float model's states."""

from job import run
from zipquant.traces import tracing

run(
    snakemake,
    tracing.trace_shard,
    model=snakemake.input.model,
    contract_file=snakemake.input.contract,
    features=snakemake.input.features,
    trace=snakemake.output.trace,
    table=snakemake.output.table,
    lanes=snakemake.resources.lanes,
    threads=snakemake.params.threads,
)
