"""What turns encoder outputs into text: decoder, joiner and tokens, found and checked.

Looked at when the Snakefile is read, so it opens the files with nothing heavier than onnx.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zipquant.board import vocabulary
from zipquant.errors import UserError
from zipquant.model.contract import Contract, Tensor, batch_symbol, load_onnx, read_tensor

AUTO = "auto"
"""The setting that takes the file beside the encoder, by its name."""


@dataclass(frozen=True)
class Part:
    """The decoder or the joiner.

    Attributes:
        path: its ONNX file.
        inputs: what it takes, two axes each.
        size: of one vector of the output; None where the file does not say.
        metadata: the ONNX file's metadata.
    """

    path: str
    inputs: tuple[Tensor, ...]
    size: int | None
    metadata: dict[str, str]


@dataclass(frozen=True)
class Recognizer:
    """The rest of a model beside its encoder.

    Attributes:
        tokens: the tokens file.
        decoder: the prediction network; None for a CTC model.
        joiner: the joint network; None for a CTC model.
    """

    tokens: str
    decoder: Part | None = None
    joiner: Part | None = None


def find(model: Mapping[str, Any], contract: Contract) -> Recognizer | None:
    """Find and check what makes text of the encoder's output.

    Args:
        model: the configuration's section `model`. Its `decoder`, `joiner` and `tokens` are a path,
            None, or `AUTO`: the file beside the encoder that is called as the encoder is, with
            "decoder" or "joiner" for "encoder", or tokens.txt; none where there is no such file.
        contract: the encoder's contract.

    Returns:
        The recognizer, a CTC one where there are tokens as many as the encoder output is wide, but
        no decoder and joiner; None where there is nothing to make text with.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    encoder = Path(model["encoder"])
    paths = {
        key: _auto(encoder, key) if model[key] == AUTO else model[key]
        for key in ("tokens", "decoder", "joiner")
    }
    tokens, decoder, joiner = paths["tokens"], paths["decoder"], paths["joiner"]
    if bool(decoder) != bool(joiner):
        there, missing = ("decoder", "joiner") if decoder else ("joiner", "decoder")
        raise UserError(
            f"there is a {there} ({paths[there]}), but no {missing}: set model.{missing}, or set "
            f"model.{there} to null to go without error rates"
        )
    if not tokens:
        if decoder and model["decoder"] != AUTO:
            raise UserError("model.decoder is set, but there is no tokens file: set model.tokens")
        return None
    found = load(tokens, decoder, joiner)
    if found.joiner:
        _check_width(found.joiner, 0, encoder, contract.encoder_dim)
        return found
    known = vocabulary.read(tokens)
    if contract.encoder_dim and known.scored(contract.encoder_dim):
        return found
    if model["tokens"] != AUTO:
        raise UserError(
            f"{tokens} has {len(known.tokens)} tokens, but a vector of {encoder}'s output has "
            f"{contract.encoder_dim or 'an unknown number of'} values: this is no CTC model with "
            "these tokens; for a transducer set model.decoder and model.joiner"
        )
    return None


def load(tokens: str, decoder: str | None = None, joiner: str | None = None) -> Recognizer:
    """Read what the files beside the encoder are, and check that they belong together.

    Args:
        tokens: the tokens file.
        decoder: the decoder's ONNX file; None for a CTC model.
        joiner: the joiner's ONNX file; None for a CTC model.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    known = vocabulary.read(tokens)
    if not decoder or not joiner:
        return Recognizer(tokens)
    predict, join = _part(decoder, "decoder", 1), _part(joiner, "joiner", 2)
    if not known.scored(join.size):
        raise UserError(
            f"{tokens} has {len(known.tokens)} tokens, but {joiner} gives {join.size} scores: take "
            "the tokens.txt that came with the model (model.tokens)"
        )
    if known.blank != 0:
        raise UserError(
            f"{tokens}: the blank has the id {known.blank}, but sherpa-onnx's transducer search "
            "takes 0; take the tokens.txt that came with the model (model.tokens)"
        )
    _check_width(join, 1, decoder, predict.size)
    return Recognizer(tokens, predict, join)


def unspeakable(texts: Mapping[str, str], recognizer: Recognizer) -> dict[str, list[str]]:
    """Return the words of each transcript that the model's tokens cannot spell.

    Args:
        texts: transcripts by utterance id.
        recognizer: the model.

    Returns:
        The words by utterance id; utterances without such words are left out.
    """
    known = vocabulary.read(recognizer.tokens)
    found = {name: known.unknown_words(text) for name, text in texts.items()}
    return {name: unknown for name, unknown in found.items() if unknown}


def _auto(encoder: Path, key: str) -> str | None:
    name = "tokens.txt" if key == "tokens" else encoder.name.replace("encoder", key)
    path = encoder.with_name(name)
    return str(path) if name != encoder.name and path.is_file() else None


def _check_width(joiner: Part, position: int, path: str | Path, width: int | None) -> None:
    expected = joiner.inputs[position].shape[1]
    if width not in (None, expected):
        raise UserError(
            f"{joiner.path} takes vectors of {expected} values, but {path} gives {width}: the two "
            "are of different models; set model.decoder and model.joiner"
        )


def _part(path: str, kind: str, count: int) -> Part:
    model = load_onnx(path, f"model.{kind}")
    initialized = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in initialized]
    inputs: list[Tensor] = []
    if values:
        batch = batch_symbol(path, values[0])
        inputs = [read_tensor(path, value, batch) for value in values]
    axes = {len(tensor.shape) for tensor in inputs}
    if len(inputs) != count or axes != {2} or len(model.graph.output) != 1:
        raise UserError(
            f"{path} is not a {kind}: it has {len(inputs)} input(s) and {len(model.graph.output)} "
            f"output(s), and a {kind} has {count} of two axes and 1; set model.{kind}"
        )
    dims = model.graph.output[0].type.tensor_type.shape.dim
    size = dims[-1].dim_value or None if dims else None
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Part(path, tuple(inputs), size, metadata)
