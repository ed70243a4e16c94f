"""Look for keywords in a shard of evaluation audio."""

import os

from job import run
from zipquant.evaluation import spotting
from zipquant.variants.opening import Place

given, params = snakemake.input, snakemake.params
build = given.get("build")

run(
    snakemake,
    spotting.spot_shard,
    model=spotting.Model(
        float32=given.model,
        contract=given.contract,
        folder=os.path.dirname(build) if build else None,
        prepared=given.get("prepared"),
        time=given.get("time"),
    ),
    search=spotting.Search(given.keywords, given.tokens, given.decoder, given.joiner),
    features=given.features,
    encoded=given.encoded,
    output=snakemake.output.heard,
    place=Place(params.target, params.device_id),
)
