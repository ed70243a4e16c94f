"""Tables of layers: what is counted, what belongs together, and what comes back from a file."""

from dataclasses import replace

import pytest

from zipquant.errors import UserError
from zipquant.toolkit import layer_table
from zipquant.toolkit.layer_table import Layer, Table, by_module, module_of


def layer(number, kind="Conv", data_type="INT8", target="NPU", name="", **known):
    sizes = {"weight_bytes": 0, "read_bytes": 100, "written_bytes": 100, "cycles": None} | known
    shape = "(1,10,1,10)"
    return Layer(
        number, kind, data_type, target, shape, shape, name=name, module=module_of(name), **sizes
    )


def table(*layers):
    return Table(tuple(layers), 4, layer_table.COMPILER, 5_000, 1_000)


MIXED = table(
    layer(2, "Add", "INT64", "CPU"),
    layer(3, "Cast", "INT64", "CPU"),
    layer(4, "ConvExSwish", name="Conv:/encoder/layers.0/conv/MatMul", cycles=7),
    layer(5, "exDataConvert"),
    layer(6, "Transpose", "FLOAT16"),
    layer(7, "Reshape", "FLOAT16", "CPU"),
    layer(8, "exSDPAttention", "FLOAT16", name='MatMul:/a "quoted" name/MatMul'),
)


def test_layers_are_counted_by_what_they_do_and_where():
    counts = MIXED.summary()
    assert counts["layers"] == 7 and counts["targets"] == {"NPU": 4, "CPU": 3}
    kinds = {"arithmetic": 2, "data movement": 2, "conversion": 1, "counter": 2}
    assert counts["kinds"] == kinds
    assert counts["switches"] == 3  # CPU CPU | NPU NPU NPU | CPU | NPU
    assert (counts["weight_memory"], counts["internal_memory"]) == (5_000, 1_000)


def test_table_comes_back_from_its_file_with_what_is_unknown(tmp_path):
    unknown = [
        replace(entry, data_type="", target="", read_bytes=None, weight_bytes=None, cycles=None)
        for entry in MIXED.layers
    ]
    for given in (MIXED, Table(tuple(unknown), 4, layer_table.RKNN_FILE), layer_table.empty()):
        given.write(tmp_path / "layers.tsv")
        assert Table.read(tmp_path / "layers.tsv") == given


@pytest.mark.parametrize("text", ["", "id\ttype\n", "# source=compiler\nid\ttype\n0\tConv\n"])
def test_file_that_is_no_table_is_told(tmp_path, text):
    (tmp_path / "layers.tsv").write_text(text)
    with pytest.raises(UserError, match=r"layers\.tsv was damaged .* has been deleted"):
        Table.read(tmp_path / "layers.tsv")


OUT = "encoder/stacks.4/layers.0/self_attn/out_proj"


@pytest.mark.parametrize(
    ("name", "module", "kind"),
    [
        ("Conv:/encoder/stacks.4/layers.0/self_attn/out_proj/MatMul#2_ConvAdd", OUT, "self_attn"),
        ("Add:/encoder/encoders.0/layers.1/Add_rs", "encoder/encoders.0/layers.1", "layers"),
        ("Conv:/encoder_embed/conv/conv.0/Conv", "encoder_embed/conv/conv.0", "conv"),
        ("Reshape:cached_len_0_rs", "", ""),
        ("", "", ""),
    ],
)
def test_module_is_read_from_the_name(name, module, kind):
    assert module_of(name) == module
    assert list(by_module([layer(0, name=name)])) == [kind]


def test_modules_that_repeat_each_other_are_one():
    names = [f"Add:/encoder/layers.{n}/conv/{op}" for n in range(3) for op in ("Add", "Mul")]
    layers = [layer(n, name=name) for n, name in enumerate([*names, "Slice:x_rs"])]
    assert {kind: len(found) for kind, found in by_module(layers).items()} == {"conv": 6, "": 1}
