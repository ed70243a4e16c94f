"""Evaluate a variant on a shard of the evaluation audio, on this machine or on a board."""

from job import run
from zipquant.evaluation.encoder_error import Amount, Models, Tables, evaluate_shard
from zipquant.evaluation.measures import EMULATION
from zipquant.variants.opening import Place

given, made, params = snakemake.input, snakemake.output, snakemake.params

run(
    snakemake,
    evaluate_shard,
    models=Models(given.model, given.prepared, given.contract, params.work),
    features=given.features,
    tables=Tables(made.table, made.encoded, made.time, made.histograms, made.stream),
    amount=Amount(params.one_step_chunks, params.long_stream),
    place=Place(params.target, params.device_id, params.engine == EMULATION, params.lanes),
)
