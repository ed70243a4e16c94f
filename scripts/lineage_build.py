"""Build a variant from a recipe's calibration set and evaluate it."""

from job import run
from zipquant import lineage
from zipquant.evaluation.encoder_error import Models
from zipquant.toolkit.platforms import Npu

run(
    snakemake,
    lineage.build,
    models=Models(
        snakemake.input.model,
        snakemake.input.prepared,
        snakemake.input.contract,
        snakemake.output.work,
    ),
    dataset=snakemake.input.dataset,
    features=snakemake.input.features,
    verdict_file=snakemake.output.verdict,
    npu=Npu(snakemake.params.platform, snakemake.params.toolkit),
    settings=snakemake.params.settings,
    one_step_chunks=snakemake.params.one_step_chunks,
    recognizer={
        part: path
        for part in ("tokens", "decoder", "joiner")
        if (path := snakemake.input.get(part))
    },
)
