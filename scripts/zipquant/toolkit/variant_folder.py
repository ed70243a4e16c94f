"""Names of the files in a variant's folder."""

BUILD = "build.json"
"""How the variant was built, or why it could not be; see `variants.record.Build`."""

ENCODER = "encoder.rknn"
"""What the board takes."""

LAYERS = "layers.tsv"
"""The layers that the board runs; see `layer_table.Table`."""

TOOLKIT = "toolkit"
"""Folder, beside the .rknn, of the files that the first step of a quantized build leaves."""

DATASET = "dataset.txt"
"""The rows that a variant is calibrated with, in that folder; gdq reads them for each simulator."""
