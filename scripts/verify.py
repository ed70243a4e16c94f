"""Compare decoder and joiner in the simulator with onnxruntime."""

from job import run
from zipquant.evaluation import transducer
from zipquant.toolkit.platforms import Npu

run(
    snakemake,
    transducer.verify,
    encoded=snakemake.input.encoded,
    tokens=snakemake.input.tokens,
    decoder=snakemake.input.decoder,
    joiner=snakemake.input.joiner,
    npu=Npu(snakemake.params.platform, snakemake.params.toolkit),
    joiner_steps=snakemake.input.get("joiner_steps"),
    outputs={part: snakemake.output[part] for part in ("decoder", "joiner")},
)
