"""Finding what makes text beside the encoder, and refusing what does not belong together."""

import shutil

import onnx
import pytest

from helpers.models import tiny_ctc
from helpers.places import DEMO_MODEL
from zipquant.errors import UserError
from zipquant.model import contract, locate, recognizer


@pytest.fixture
def folder(tmp_path):
    """The demo model under the names that icefall's export gives."""
    names = {part: f"{part}-epoch-99.onnx" for part in ("encoder", "decoder", "joiner")}
    for part, name in names.items():
        shutil.copy(DEMO_MODEL.with_name(f"{part}.onnx"), tmp_path / name)
    shutil.copy(DEMO_MODEL.with_name("tokens.txt"), tmp_path)
    return tmp_path


def find(encoder, **settings):
    model = dict.fromkeys(("decoder", "joiner", "tokens", "keywords"), "auto")
    model |= {"folder": None, "encoder": str(encoder), "restore": False} | settings
    return recognizer.find(locate.locate(model)[0], contract.inspect(encoder))


def test_files_beside_the_encoder_are_found(folder):
    found = find(folder / "encoder-epoch-99.onnx")
    assert found.decoder.path == str(folder / "decoder-epoch-99.onnx")
    assert found.joiner.path == str(folder / "joiner-epoch-99.onnx")
    assert found.decoder.inputs[0].shape == (1, 2)
    assert found.joiner.size == 11


def test_encoder_alone_makes_no_text(folder):
    (folder / "tokens.txt").unlink()
    assert find(folder / "encoder-epoch-99.onnx") is None
    shutil.move(folder / "encoder-epoch-99.onnx", folder / "model.onnx")
    assert find(folder / "model.onnx") is None


def test_null_switches_it_off(folder):
    assert find(folder / "encoder-epoch-99.onnx", decoder=None, joiner=None) is None


def test_ctc_model_needs_tokens_alone(tmp_path):
    model = tiny_ctc(tmp_path / "model.onnx", tokens=3)
    (tmp_path / "tokens.txt").write_text("<blk> 0\na 1\nb 2\n")
    found = find(model)
    assert (found.decoder, found.joiner) == (None, None)
    (tmp_path / "tokens.txt").write_text("<blk> 0\na 1\n")
    with pytest.raises(UserError, match=r"has 2 tokens, but .* output has 3 values"):
        find(model)
    assert find(model, tokens=None) is None


def test_tokens_of_another_model_are_refused(folder):
    with open(folder / "tokens.txt", "a") as file:
        file.write("▁ten 11\n")
    with pytest.raises(UserError, match=r"tokens.txt has 12 tokens, but .* gives 11 scores"):
        find(folder / "encoder-epoch-99.onnx")


def test_tokens_that_only_graphs_need_are_left_out(folder, tmp_path):
    with open(folder / "tokens.txt", "a") as file:
        file.write("#0 11\n#1 12\n")
    assert find(folder / "encoder-epoch-99.onnx").joiner.size == 11
    model = tiny_ctc(tmp_path / "ctc.onnx", tokens=3)
    (tmp_path / "tokens.txt").write_text("<blk> 0\na 1\nb 2\n#0 3\n")
    assert find(model).tokens == str(tmp_path / "tokens.txt")


def test_blank_elsewhere_is_refused(folder):
    lines = (folder / "tokens.txt").read_text().replace("<blk> 0", "<blk> 10")
    (folder / "tokens.txt").write_text(lines.replace("▁nine 10", "▁nine 0"))
    with pytest.raises(UserError, match="the blank has the id 10"):
        find(folder / "encoder-epoch-99.onnx")


def test_decoder_without_joiner_is_refused(folder):
    (folder / "joiner-epoch-99.onnx").unlink()
    with pytest.raises(UserError, match=r"but no joiner: set model\.joiner"):
        find(folder / "encoder-epoch-99.onnx")


def test_swapped_files_are_refused(folder):
    with pytest.raises(UserError, match="is not a decoder: it has 2 input"):
        find(
            folder / "encoder-epoch-99.onnx",
            decoder=str(folder / "joiner-epoch-99.onnx"),
            joiner=str(folder / "decoder-epoch-99.onnx"),
        )


def test_joiner_of_another_width_is_refused(folder):
    path = folder / "joiner-epoch-99.onnx"
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[1].dim_value = 640
    onnx.save(model, path)
    with pytest.raises(UserError, match="takes vectors of 640 values, but"):
        find(folder / "encoder-epoch-99.onnx")


def test_words_that_cannot_be_spelled_are_named(folder):
    found = find(folder / "encoder-epoch-99.onnx")
    texts = {"a": "six two", "b": "six, two", "c": "6 TWO"}
    assert recognizer.unspeakable(texts, found) == {"b": ["six,"], "c": ["6"]}
