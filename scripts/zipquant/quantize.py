"""Building a variant: the toolkit called with everything checked before and after."""

import time
from importlib.metadata import version
from pathlib import Path

from zipquant import calibration, files, rknn_file, rknn_toolkit
from zipquant.contract import Contract
from zipquant.errors import UserError


def build_variant(
    model: str | Path,
    contract_file: str | Path,
    dataset: str | Path | None,
    work: str | Path,
    platform: str,
    dtype: str,
    algorithm: str = "normal",
    method: str = "channel",
) -> None:
    """Build one variant of the encoder: `work`/encoder.rknn, and `work`/build.json beside it.

    Args:
        model: the encoder's ONNX file.
        contract_file: its contract.
        dataset: dataset.txt of the calibration set; not used for float16.
        work: the variant's folder.
        platform: the NPU, such as `rk3588`.
        dtype: `w8a8` or `float16`.
        algorithm: `normal`, `kl_divergence` or `mmse`.
        method: `channel` or `layer`.

    Raises:
        UserError: the calibration set is not right, or the toolkit failed.
    """
    contract = Contract.load(contract_file)
    work = Path(work)
    quantized = dtype != "float16"
    if quantized:
        calibration.check(dataset, contract)
    start = time.monotonic()
    rknn_toolkit.build(
        model=Path(model),
        contract=contract,
        dataset=Path(dataset) if quantized else None,
        work=work,
        platform=platform,
        dtype=dtype,
        algorithm=algorithm,
        method=method,
    )
    seconds = time.monotonic() - start
    rknn = work / "encoder.rknn"
    types = rknn_file.io_types(rknn)
    inputs = [tensor.name for tensor in contract.inputs]
    missing = sorted({*inputs, *contract.outputs} - set(types))
    if missing:
        raise UserError(
            f"{rknn} lacks {', '.join(missing)}: rknn-toolkit2 has dropped inputs or outputs of "
            "the model, so the states cannot be handed on"
        )
    record = {
        "platform": platform,
        "dtype": dtype,
        **({"algorithm": algorithm, "method": method} if quantized else {}),
        "rknn_toolkit2": version("rknn-toolkit2"),
        "model_sha256": contract.sha256,
        "rknn_sha256": files.sha256(rknn),
        "bytes": rknn.stat().st_size,
        "seconds": round(seconds, 1),
        "custom_string": rknn_toolkit.custom_string(contract.metadata),
        "inputs": {name: types[name] for name in inputs},
        "outputs": {name: types[name] for name in contract.outputs},
    }
    files.write_json(work / "build.json", record)
