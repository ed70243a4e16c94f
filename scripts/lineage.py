"""Compare all recipes in one table."""

from job import run
from zipquant import lineage

run(
    snakemake,
    lineage.write,
    contract_file=snakemake.input.contract,
    made=snakemake.params.made,
    runtime_features=snakemake.input.features,
    runtime_tables=snakemake.input.tables,
    float_texts=snakemake.input.float_texts,
    transcripts=snakemake.input.get("transcripts"),
    table_file=snakemake.output.table,
    markdown_file=snakemake.output.markdown,
)
