"""What rknn-toolkit2 has for each NPU: types, algorithms and methods of quantization, as data.

Measured with rknn-toolkit2 2.3.2: what its `config` takes, and what its builds make of it.
Imported when the Snakefile is read, so it needs nothing but the standard library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zipquant.toolkit import versions

FLOAT16 = "float16"
"""The type that is not quantized; every platform has it."""

W4A16 = "w4a16"
"""4 bit weights; all that is computed with them, inputs and outputs included, is float16."""

GDQ = "gdq"
"""The algorithm that the toolkit does not offer in two steps (hybrid quantization)."""


@dataclass(frozen=True)
class Quantization:
    """What goes with a quantized type.

    Attributes:
        algorithms: how ranges are chosen.
        methods: what shares a scale in the weights.
    """

    algorithms: tuple[str, ...]
    methods: tuple[str, ...]


_INT8 = {"w8a8": Quantization(("normal", "kl_divergence", "mmse"), ("channel", "layer"))}
_INT4 = {W4A16: Quantization(("normal", GDQ), ("channel", "group32"))}


@dataclass(frozen=True)
class Npu:
    """What a model is built for, and with.

    Attributes:
        platform: the toolkit's name of the NPU, such as `rk3588`.
        toolkit: the version of the toolkit.
    """

    platform: str
    toolkit: str = versions.DEFAULT


@dataclass(frozen=True)
class Scheme:
    """What the toolkit makes of a model.

    Attributes:
        platform: the toolkit's name of the NPU, such as `rk3588`.
        dtype: `float16`, or a quantized type such as `w8a8`.
        algorithm: how ranges are chosen; not used for float16.
        method: what shares a scale in the weights; not used for float16.
        toolkit: the version of the toolkit.
    """

    platform: str
    dtype: str
    algorithm: str = "normal"
    method: str = "channel"
    toolkit: str = versions.DEFAULT

    @property
    def is_float16(self) -> bool:
        """Whether nothing is quantized."""
        return self.dtype == FLOAT16

    @property
    def in_two_steps(self) -> bool:
        """Whether the toolkit builds it in the two steps of its hybrid quantization."""
        return not self.is_float16 and self.algorithm != GDQ


PLATFORMS: dict[str, dict[str, Quantization]] = {
    "rk3588": _INT8,
    "rk3576": _INT8 | _INT4,
    "rk3568": _INT8,
    "rk3566": _INT8,
    "rk3562": _INT8,
    "rv1126b": _INT8 | _INT4,
}
"""The quantized types of each platform."""

CRASHES = {("rk3562", "w8a16"): "rknn-toolkit2 offers it, but aborts in the build"}
"""What the toolkit takes for a platform and cannot build: version 2.3.2 ends with "buffer overflow"
on every model that has weights."""

UNSUPPORTED = {
    **dict.fromkeys(
        ("rv1103", "rv1103b", "rv1106", "rv1106b", "rk2118"),
        "its NPU computes in integers alone, but the models here need float16 for their inputs, "
        "outputs and running means, and sherpa-onnx loads no others",
    ),
    **dict.fromkeys(
        ("rv1109", "rv1126", "rk1808", "rk3399pro"),
        "its NPU is of the first generation, which the older rknn-toolkit serves (.rknn files of "
        "rknn-toolkit2 do not run there)",
    ),
    "rk3588s": "it has the NPU of the RK3588: set platform to rk3588",
    "rk3566s": "it has the NPU of the RK3566: set platform to rk3566",
    "rk3568j": "it has the NPU of the RK3568: set platform to rk3568",
    "rk3588j": "it has the NPU of the RK3588: set platform to rk3588",
    "rk3588m": "it has the NPU of the RK3588: set platform to rk3588",
    "rk3576j": "it has the NPU of the RK3576: set platform to rk3576",
    **dict.fromkeys(
        ("rk3399", "rk3328", "rk3288", "rk3326", "px30", "rk3308", "rk3528", "rk3506"),
        "it has no NPU that rknn-toolkit2 builds for",
    ),
    **dict.fromkeys(
        ("rk1820", "rk1828", "rk3688", "rk3668"), "rknn-toolkit2 2.3.2 does not know it"
    ),
}
"""Other chips of Rockchip, and why they are no platform here."""


def why_not(platform: str) -> str:
    """Return why a chip is not supported; empty for a name that is none of Rockchip's chips."""
    return UNSUPPORTED.get(platform.lower().replace("-", "").replace("_", ""), "")


def keeps_float16(dtype: str) -> bool:
    """Return whether a type leaves all activations in float16, so that nothing is to be kept."""
    return dtype in (FLOAT16, W4A16)


def problems(platform: str, variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what a platform does not have of what the variants ask for, with what it has.

    Args:
        platform: the NPU, a key of `PLATFORMS`.
        variants: the settings of each variant, by name.
    """
    found = []
    for name, settings in variants.items():
        problem = _problem(platform, settings)
        if problem:
            found.append(f"variants.{name}: {problem}")
    return found


def _problem(platform: str, settings: Mapping[str, Any]) -> str:
    dtype = settings["dtype"]
    if keeps_float16(dtype) and settings.get("mixed_precision"):
        return f"mixed_precision does not go with {dtype}, which computes in float16"
    if dtype == FLOAT16:
        return ""
    known = PLATFORMS[platform].get(dtype)
    if known is None:
        crash = CRASHES.get((platform, dtype))
        others = [other for other, dtypes in PLATFORMS.items() if dtype in dtypes]
        return (
            f"{platform} has no {dtype}{f' ({crash})' if crash else ''}. Known for it: "
            f"{', '.join([*PLATFORMS[platform], FLOAT16])}"
            + (f"; {dtype} is known for {', '.join(others)}" if others else "")
        )
    for key, allowed in (("algorithm", known.algorithms), ("method", known.methods)):
        if key in settings and settings[key] not in allowed:
            return f"{key} {settings[key]} does not go with {dtype}. Known: {', '.join(allowed)}"
    if dtype == W4A16:
        for key in ("io_dtype", "running_mean"):
            if settings.get(key, FLOAT16) != FLOAT16:
                return f"{key} {settings[key]} does not go with {dtype}, which computes in float16"
    return ""
