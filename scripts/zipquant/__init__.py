"""Zipquant's library: everything the workflow's rules do, without any knowledge of Snakemake."""
