"""Draw the calibration sample from the chunk tables of all shards."""

from job import run
from zipquant.calibration import sampling

run(
    snakemake,
    sampling.sample,
    tables=snakemake.input.tables,
    contract_file=snakemake.input.contract,
    output=snakemake.output.sample,
    coverage_file=snakemake.output.coverage,
    outliers_file=snakemake.output.outliers,
    draw=sampling.Draw(
        strategy=snakemake.params.strategy,
        rows=snakemake.params.rows,
        seed=snakemake.params.seed,
        guard=snakemake.params.guard,
    ),
)
