"""Build the decoder or the joiner for the NPU."""

from job import run
from zipquant.toolkit.platforms import Npu
from zipquant.variants import transducer

run(
    snakemake,
    transducer.convert,
    part=snakemake.wildcards.part,
    recognizer_files={name: snakemake.input[name] for name in ("tokens", "decoder", "joiner")},
    npu=Npu(snakemake.params.platform, snakemake.params.toolkit),
    encoded=snakemake.input.get("encoded", []),
    steps=snakemake.output.steps,
    output=snakemake.output.rknn,
    layers=snakemake.output.layers,
)
