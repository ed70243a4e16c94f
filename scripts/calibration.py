"""Write the sampled chunks as npy files and dataset.txt."""

from job import run
from zipquant.calibration import dataset

run(
    snakemake,
    dataset.write,
    sample=snakemake.input.sample,
    traces=snakemake.input.traces,
    contract_file=snakemake.input.contract,
    output=snakemake.output.dataset,
    arrays=snakemake.output.arrays,
    states=snakemake.params.states,
)
