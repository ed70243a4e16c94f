"""Turn a part of the model into one file in float32."""

from job import run
from zipquant.model import precision

run(
    snakemake,
    precision.restore_file,
    path=snakemake.input.model,
    output=snakemake.output.model,
)
