"""Run a variant over one long stream, and look for states that go wrong with time."""

from job import run
from zipquant.evaluation import long_stream

run(
    snakemake,
    long_stream.run,
    model=snakemake.input.model,
    prepared=snakemake.input.prepared,
    contract_file=snakemake.input.contract,
    features=snakemake.input.features,
    work=snakemake.params.work,
    seconds=snakemake.params.seconds,
    output=snakemake.output.stream,
)
