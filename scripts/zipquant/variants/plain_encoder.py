"""The chosen encoder once more, built from its graph as it is, for boards to compare the two."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zipquant.jobs import files
from zipquant.toolkit.platforms import Npu
from zipquant.toolkit.variant_folder import ENCODER, LAYERS, TOOLKIT
from zipquant.variants.build import Settings, Source, attempt
from zipquant.variants.record import NATIVE_GRAPH, Build


def build(
    work: str | Path,
    best_file: str | Path,
    records: Mapping[str, str | Path],
    settings: Mapping[str, Mapping[str, Any]],
    source: Source,
) -> None:
    """Build the best variant without `npu_native`, or record that it was built so already.

    Args:
        work: the folder to build in; build.json has a `failure` where there is nothing to compare.
        best_file: JSON that names the variant, written by `choice.write`.
        records: build.json of each variant.
        settings: the settings of each variant.
        source: what they are built from.

    Raises:
        UserError: the calibration set is not right, or a file is damaged.
    """
    work, best = Path(work), files.read_json(best_file)["best"]
    built = Build.load(records[best])
    if built.graph == NATIVE_GRAPH:
        plain = replace(Settings(**settings[best]), npu_native=False)
        # The report shows the curve of the other form.
        source = replace(source, curve=False)
        attempt(work, Npu(built.platform, built.rknn_toolkit2), source, plain)
        return
    shutil.rmtree(work / TOOLKIT, ignore_errors=True)
    (work / TOOLKIT).mkdir(parents=True)
    for name in (ENCODER, LAYERS):
        (work / name).unlink(missing_ok=True)
    reason = f"{best} is built from the encoder as it is, so there are no two to compare"
    Build(built.platform, built.dtype, failure=reason).save(work)
