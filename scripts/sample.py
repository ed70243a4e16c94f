"""Draw the calibration sample from the chunk tables of all shards."""

from job import run
from zipquant import sampling

run(
    snakemake.log,
    sampling.sample,
    tables=snakemake.input.tables,
    output=snakemake.output.sample,
    rows=snakemake.params.rows,
    seed=snakemake.params.seed,
)
