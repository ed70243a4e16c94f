"""The encoder in the form that the RKNN compiler makes few layers of, if its kind is known."""

from collections.abc import Callable

import onnx

from zipquant.model.contract import Contract
from zipquant.rewrites import equality, zipformer2_native, zipformer_native
from zipquant.rewrites.graph import Graph, Mismatch

FAMILIES: dict[str, Callable[[onnx.ModelProto, Graph, Contract], onnx.ModelProto]] = {
    "Zipformer": zipformer_native.rewrite,
    "Zipformer2": zipformer2_native.rewrite,
}
"""By the kind of encoder that each knows, what writes it again; raises `Mismatch` for others."""


def rewrite(model: onnx.ModelProto, contract: Contract) -> tuple[onnx.ModelProto, str | None]:
    """Write an encoder again for the NPU.

    Args:
        model: the encoder with a batch of 1 and its constants folded.
        contract: its contract.

    Returns:
        The rewritten encoder with the same inputs, outputs and metadata, and None; or the model as
        it was, and why it was left so, in one line.
    """
    graph = Graph(model)
    reasons = []
    for family, write in FAMILIES.items():
        try:
            written = write(model, graph, contract)
            found, allowed = equality.of_models(model, written, contract)
        except Mismatch as mismatch:
            reasons.append(f"no {family} ({mismatch})")
            continue
        except Exception as stumble:
            # A node that has fewer inputs or axes than the family's, or a graph written from it
            # that onnxruntime refuses, whose errors share no base class but Exception.
            kind, text = type(stumble).__name__, " ".join(str(stumble).split())
            reasons.append(f"no {family} (reading it failed: {kind}: {text[:200]})")
            continue
        if found <= allowed:
            return written, None
        reasons.append(f"as {family} it would compute something else (error {found:.2g})")
    return model, "; ".join(reasons)
