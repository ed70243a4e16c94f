"""Read the model contract from the ONNX file and try it."""

from job import run
from zipquant.model import streaming

run(
    snakemake,
    streaming.inspect_and_try,
    model=snakemake.input.model,
    state_outputs=snakemake.params.state_outputs,
    output=snakemake.output.contract,
)
