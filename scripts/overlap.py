"""Find evaluation audio that is also calibrated with."""

from job import run
from zipquant.audio import index

run(
    snakemake,
    index.check_overlap,
    calibration=snakemake.input.calibration,
    evaluation=snakemake.input.evaluation,
    output=snakemake.output.table,
    on_overlap=snakemake.params.on_overlap,
)
