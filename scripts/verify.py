"""Compare decoder and joiner in the simulator with onnxruntime."""

from job import run
from zipquant.evaluation import transducer

run(
    snakemake,
    transducer.verify,
    encoded=snakemake.input.encoded,
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.decoder,
    joiner=snakemake.input.joiner,
    platform=snakemake.params.platform,
    joiner_steps=snakemake.input.get("joiner_steps"),
    outputs={part: snakemake.output[part] for part in ("decoder", "joiner")},
)
