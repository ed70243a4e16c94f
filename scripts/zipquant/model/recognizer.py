"""What turns encoder outputs into text: decoder, joiner and tokens, checked.

Looked at when the Snakefile is read, so it opens the files with nothing heavier than onnx.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zipquant.board import vocabulary
from zipquant.errors import UserError
from zipquant.model.contract import Contract, Tensor, batch_symbol, load_onnx, read_tensor
from zipquant.model.look import is_ctc


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

    def moved(self, paths: Mapping[str, str]) -> "Recognizer":
        """Return the same with other files for some of its parts, by their names."""
        parts = {
            name: replace(getattr(self, name), path=path)
            for name, path in paths.items()
            if getattr(self, name, None)
        }
        return replace(self, **parts)


def find(model: Mapping[str, Any], contract: Contract) -> Recognizer | None:
    """Check what makes text of the encoder's output.

    Args:
        model: the configuration's section `model`, with the paths that `locate.locate` has found;
            `decoder`, `joiner` and `tokens` are None where there is no such file.
        contract: the encoder's contract.

    Returns:
        The recognizer, a CTC one where there is no decoder and joiner; None where there is nothing
        to make text with.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    encoder, restore = Path(model["encoder"]), model["restore"]
    tokens, decoder, joiner = model["tokens"], model["decoder"], model["joiner"]
    if bool(decoder) != bool(joiner):
        there, missing = ("decoder", "joiner") if decoder else ("joiner", "decoder")
        raise UserError(
            f"there is a {there} ({model[there]}), but no {missing}: set model.{missing}, or set "
            f"model.{there} to null to go without error rates"
        )
    if not tokens or not (decoder or is_ctc(contract.encoder_out, contract.metadata)):
        return None
    found = load(tokens, decoder, joiner, restore)
    if found.joiner:
        _check_width(found.joiner, 0, encoder, contract.encoder_dim)
        return found
    known = vocabulary.read(tokens)
    if not contract.encoder_dim or not known.scored(contract.encoder_dim):
        raise UserError(
            f"{tokens} has {len(known.tokens)} tokens, but a vector of {encoder}'s output has "
            f"{contract.encoder_dim or 'an unknown number of'} values: this is no CTC model with "
            "these tokens; for a transducer set model.decoder and model.joiner"
        )
    return found


def load(
    tokens: str, decoder: str | None = None, joiner: str | None = None, restore: bool = False
) -> Recognizer:
    """Read what the files beside the encoder are, and check that they belong together.

    Args:
        tokens: the tokens file.
        decoder: the decoder's ONNX file; None for a CTC model.
        joiner: the joiner's ONNX file; None for a CTC model.
        restore: see `contract.load_onnx`.

    Raises:
        UserError: a file is missing or damaged, or the files do not belong together.
    """
    known = vocabulary.read(tokens)
    if not decoder or not joiner:
        return Recognizer(tokens)
    predict, join = (
        _part(path, kind, count, restore)
        for path, kind, count in ((decoder, "decoder", 1), (joiner, "joiner", 2))
    )
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


def _check_width(joiner: Part, position: int, path: str | Path, width: int | None) -> None:
    expected = joiner.inputs[position].shape[1]
    if width not in (None, expected):
        raise UserError(
            f"{joiner.path} takes vectors of {expected} values, but {path} gives {width}: the two "
            "are of different models; set model.decoder and model.joiner"
        )


def _part(path: str, kind: str, count: int, restore: bool) -> Part:
    model = load_onnx(path, f"model.{kind}", restore)
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
