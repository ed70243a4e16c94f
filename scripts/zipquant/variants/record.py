"""What build.json says of a variant."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zipquant.jobs import files
from zipquant.toolkit.platforms import Scheme
from zipquant.toolkit.variant_folder import BUILD, ENCODER

NATIVE_GRAPH, PLAIN_GRAPH = "native", "plain"
"""Which of the encoder's two graphs a variant was built from."""


@dataclass(frozen=True)
class Build:
    """How a variant was built, or why it could not be.

    What does not apply to a variant is None, and does not stand in the file.

    Attributes:
        platform: the NPU, such as `rk3588`.
        dtype: `float16`, or the toolkit's quantized type such as `w8a8`.
        failure: why it could not be built, one line; then all that follows is None.
        algorithm: how ranges were chosen; of a quantized variant.
        method: what shares a scale in the weights; of a quantized variant.
        io_dtype: type of its inputs and outputs; of a quantized variant.
        rows: how many rows it was calibrated with; None for all.
        graph: `native` where it was built from `preparation.NATIVE`, else `plain`.
        plain_because: why it is `plain` though `npu_native` was set, one line.
        running_mean: how its running means are computed; None if it has none.
        running_means: the outputs that are running means.
        cumulative_sums: nodes that the toolkit has left as cumulative sums.
        mixed_precision: what the search for float16 layers found.
        int8_macs_share: share of the multiply-accumulates in int8, 0 to 1.
        stream_limit: in which chunk its counters stop being exact or overflow; None for never.
        rknn_toolkit2: version of the toolkit.
        model_sha256: content of the ONNX file as configured.
        rknn_sha256: content of the .rknn.
        bytes: size of the .rknn.
        seconds: how long the toolkit took.
        custom_string: the metadata in the .rknn.
        refusals: why a stock sherpa-onnx refuses it; empty where it does not.
        inputs: type of each input, by its name.
        outputs: type of each output, by its name.
    """

    platform: str
    dtype: str
    failure: str | None = None
    algorithm: str | None = None
    method: str | None = None
    io_dtype: str | None = None
    rows: int | None = None
    graph: str | None = None
    plain_because: str | None = None
    running_mean: str | None = None
    running_means: list[str] | None = None
    cumulative_sums: list[str] | None = None
    mixed_precision: dict[str, Any] | None = None
    int8_macs_share: float | None = None
    stream_limit: dict[str, Any] | None = None
    rknn_toolkit2: str | None = None
    model_sha256: str | None = None
    rknn_sha256: str | None = None
    bytes: int | None = None
    seconds: float | None = None
    custom_string: str | None = None
    refusals: list[str] | None = None
    inputs: dict[str, str] | None = None
    outputs: dict[str, str] | None = None

    @classmethod
    def load(cls, path: str | Path) -> "Build":
        """Read build.json, or that of a variant's folder.

        Raises:
            UserError: the file is damaged; see `files.damaged`.
        """
        path = Path(path)
        if path.is_dir():
            path = path / BUILD
        record = files.read_json(path)
        try:
            return cls(**record)
        except TypeError as error:
            raise files.damaged(path, error) from None

    def save(self, folder: str | Path) -> None:
        """Write build.json into a variant's folder."""
        files.write_json(Path(folder) / BUILD, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Return what stands in the file: all that is not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def scheme(self) -> Scheme:
        """Return what the toolkit was asked for."""
        given = {
            "algorithm": self.algorithm,
            "method": self.method,
            "toolkit": self.rknn_toolkit2,
        }
        known = {name: value for name, value in given.items() if value is not None}
        return Scheme(self.platform, self.dtype, **known)

    def summary(self) -> dict[str, Any]:
        """Return the same without its long tables."""
        short = self.as_dict()
        for name in ("inputs", "outputs"):
            short.pop(name, None)
        if search := short.get("mixed_precision"):
            search.pop("tensors", None)
        return short

    def metadata(self) -> dict[str, str]:
        """Return the metadata in the .rknn, by key."""
        entries = (self.custom_string or "").split(";")
        return dict(entry.split("=", 1) for entry in entries if entry)

    def check(self, folder: str | Path) -> None:
        """Check that the .rknn in a variant's folder is what this build has made.

        It is no output that the workflow knows, since a variant may fail, and so has no record.

        Raises:
            UserError: it is not, and has been deleted, so that the same command builds it again.
        """
        rknn = Path(folder) / ENCODER
        if not rknn.exists() or files.sha256(rknn) != self.rknn_sha256:
            raise files.damaged(rknn, ValueError("it has not the content that was built"))
