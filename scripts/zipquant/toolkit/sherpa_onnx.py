"""What sherpa-onnx's RKNN runtime takes: the checks that decide whether it can use an encoder.

Its features are log-mel for every model: nothing in csrc/rknn/ sets `is_whisper` of the feature
extractor, as csrc/online-recognizer-transducer-impl.h and -ctc-impl.h do for ONNX models.
"""

from collections.abc import Mapping

TYPES = ("float16", "int64")
"""I/O types that it handles; others end in "Unsupported tensor type" (GetEncoderInitStates and
RunEncoder in csrc/rknn/online-zipformer-transducer-model-rknn.cc)."""

KEYS = {
    "zipformer": (
        *("model_type", "T", "decode_chunk_len", "num_encoder_layers", "encoder_dims"),
        *("attention_dims", "cnn_module_kernels", "left_context_len", "context_size"),
    ),
    "zipformer2": ("model_type", "T", "decode_chunk_len"),
}
"""What must stand in the custom string, by model type.

For a Zipformer all that the runtime looks up (InitEncoder in the same file). For a Zipformer2 the
frames of a chunk alone: a CTC model is asked for nothing else, and without them it ends with
"Invalid T" (Init in csrc/rknn/online-zipformer-ctc-model-rknn.cc); of a transducer it looks up the
others too, but a Zipformer2 has no attention_dims, and the states' shapes are the file's own."""

LONGEST = 1024
"""Bytes of a custom string with its end (rknn_custom_string in rknn_api.h)."""


def refusals(types: Mapping[str, str], custom_string: str) -> list[str]:
    """Return why a stock sherpa-onnx cannot use an encoder; nothing if it can.

    Args:
        types: type of each input and output, by name.
        custom_string: the metadata in the file.
    """
    found = type_refusals(types)
    fields = [field.split("=") for field in custom_string.split(";")]
    broken = ["=".join(field) for field in fields if len(field) != 2]
    if broken and custom_string:
        found.append(f"'Invalid custom string': '{broken[0]}' is not one key and one value")
    entries = dict(field for field in fields if len(field) == 2)
    missing = [key for key in KEYS.get(entries.get("model_type", ""), ()) if key not in entries]
    if "model_type" not in entries:
        missing.insert(0, "model_type")
    if missing:
        found.append(f"'Invalid custom string': it lacks {', '.join(missing)}")
    if entries.get("model_type") == "zipformer2" and entries.get("feature") == "whisper":
        found.append(
            "it takes Whisper's features, and sherpa-onnx's RKNN runtime computes log-mel features "
            "for every model (it does not read feature=whisper); transcribe.py in the bundle "
            "computes the right ones"
        )
    if len(custom_string.encode()) >= LONGEST:
        size = len(custom_string.encode())
        found.append(f"its custom string has {size} bytes, of which {LONGEST - 1} are read")
    return found


def type_refusals(types: Mapping[str, str]) -> list[str]:
    """Return whether there are inputs or outputs of types that the runtime does not handle.

    Args:
        types: type of each input and output, by name.
    """
    others = sorted({kind for kind in types.values() if kind not in TYPES})
    if not others:
        return []
    names = [name for name, kind in types.items() if kind in others]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        f"'Unsupported tensor type': {names[0]}{more} of type {', '.join(others)} (set io_dtype to "
        "float16)"
    ]
