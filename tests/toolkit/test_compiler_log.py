"""What the compiler prints of its layers: taken from the stream of a real build, and of floods."""

import os
import resource

import numpy as np
import pytest

from helpers.models import tiny_encoder
from zipquant.errors import ToolkitError, UserError
from zipquant.jobs import isolation
from zipquant.model import contract
from zipquant.toolkit import compiler_log, layer_table, rknn_file, rknn_toolkit
from zipquant.toolkit.platforms import Scheme

WARNING = b"W RKNN: [18:35:14.987] LayoutMatchManager: recursion_depth=3, Logic is Dangerous\n"


# The table for rk3576 has a column more.
@pytest.fixture(scope="module", params=["rk3588", "rk3576"])
def built(request, tmp_path_factory):
    """Build a small encoder for real; return its folder, and the listener."""
    folder = tmp_path_factory.mktemp("built")
    weight = np.random.default_rng(0).normal(0, 0.1, (80, 80)).astype("f4")
    model = tiny_encoder(folder / "tiny.onnx", weight=weight)
    _, listener = compiler_log.overhear(
        rknn_toolkit.build,
        model=model,
        contract=contract.inspect(model),
        dataset=None,
        work=folder,
        scheme=Scheme(request.param, "float16"),
        float16=lambda graph, config: None,
    )
    return folder, listener


def test_real_build_gives_every_layer_with_its_core_shapes_bytes_and_cycles(built):
    folder, listener = built
    table = listener.table(folder / "encoder.rknn")
    assert table.source == layer_table.COMPILER and table.borders == 6
    (product,) = (layer for layer in table.layers if layer.type == "ConvTanh")
    assert product.name.startswith("Conv:mixed") and product.cycles > 0
    assert (product.target, product.data_type, product.kind) == ("NPU", "FLOAT16", "arithmetic")
    assert product.inputs.startswith("(1,80,1,10),(80,80,1,1)") and product.outputs == "(1,80,1,10)"
    assert product.weight_bytes == 2 * 80 * 80
    assert product.written_bytes == 2 * 80 * 10 <= product.read_bytes
    counted = [layer for layer in table.layers if layer.kind == layer_table.COUNTER]
    assert {layer.type for layer in counted} >= {"Add", "Cast"}
    assert {layer.target for layer in counted} == {"CPU"}
    weights = sum(layer.weight_bytes for layer in table.layers)
    assert 0 < weights <= table.weight_memory
    assert table.internal_memory > 0


def test_file_alone_gives_the_same_layers_and_nothing_else_is_claimed(built):
    folder, listener = built
    printed = listener.table(folder / "encoder.rknn")
    read = compiler_log.Listener().table(folder / "encoder.rknn")
    assert read.source == layer_table.RKNN_FILE and read.borders == printed.borders
    same = [(layer.id, layer.type, layer.name) for layer in printed.layers]
    assert [(layer.id, layer.type, layer.name) for layer in read.layers] == same
    counts = read.summary()
    assert counts["types"] == printed.summary()["types"]
    assert counts["targets"] == {} and counts["switches"] is None
    assert counts["weight_memory"] is None and "counter" not in counts["kinds"]


def test_names_are_whole_where_the_table_cuts_them(tmp_path):
    names = ["Conv:/encoder/stacks.0/layers.0/attention/out_proj/MatMul_output_0_mm", "Add:b"]
    rows = [
        f"D RKNN: [1:2] {number}    Conv   FLOAT16  NPU    (1,8,1,4),(8,8,1,1)  (1,8,1,4)  "
        f"9/5/9      3      {name[:54]}"
        for number, name in enumerate(names)
    ]
    heading = "ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) RW(KB) "
    lines = [
        "D RKNN: [1:2] --------",
        "D RKNN: [1:2]      Network Layer Information Table    ",
        "D RKNN: [1:2] --------",
        f"D RKNN: [1:2] {heading}FullName",
        *rows,
        "D RKNN: [1:2] --------",
    ]
    listener = compiler_log.Listener(lambda block: None)
    listener.hear("\n".join(lines).encode())
    listener.end()
    file = tmp_path / "e.rknn"
    layers = [("InputOperator", ""), *(("Conv", name) for name in names), ("OutputOperator", "")]
    file.write_bytes(rknn_like(layers[1:3]))
    assert rknn_file.layers(file) == []  # no input, no output: another kind of file
    table = listener.table(file)
    assert [layer.name for layer in table.layers] == [name[:54] for name in names]
    file.write_bytes(rknn_like(layers))
    assert rknn_file.layers(file) == layers


def rknn_like(layers):
    """Return bytes in which layers stand as in an .rknn, the last one first."""
    data = bytearray(64)
    for kind, name in reversed(layers):
        for text in (name, kind):
            data += len(text).to_bytes(4, "little") + text.encode() + b"\0"
            data += bytes(-len(data) % 4)
    return bytes(data)


def test_table_of_an_unknown_version_is_not_guessed_at(built):
    folder, _ = built
    listener = compiler_log.Listener(lambda block: None)
    listener.hear(b"D RKNN: [1:2] Network Layer Information Table\n")
    listener.hear(b"D RKNN: [1:2] ID OpType Time(us) Target InputShape\n")
    listener.hear(b"D RKNN: [1:2] 0 Conv 17 NPU (1,2)\n")
    listener.end()
    assert listener.table(folder / "encoder.rknn").source == layer_table.RKNN_FILE


def print_much(gigabytes, then):
    block = WARNING * 10_000
    os.write(1, b"the first word\n")
    for _ in range(round(gigabytes * 1e9 / len(block))):
        os.write(1, block)
    os.write(1, b"the last word\n")
    return then


def test_gigabytes_of_warnings_leave_the_log_and_the_memory_small():
    log = bytearray()
    listener = compiler_log.Listener(log.extend)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = isolation.overhear(listener.hear, {}, print_much, gigabytes=2, then=17)
    listener.end()
    assert result == 17
    lines = log.decode().splitlines()
    assert lines[0] == "the first word" and "the last word" in lines
    assert len(lines) == 2 + compiler_log.SHOWN_WARNINGS + 1
    assert "more warnings of the compiler are left out" in lines[-1]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


@pytest.mark.parametrize("limit", [{"most_bytes": 1e8}, {"most_seconds": 0.2}])
def test_child_that_does_not_end_its_warnings_is_ended(limit):
    listener = compiler_log.Listener(lambda block: None, **limit)
    with pytest.raises(compiler_log.Flood, match=r"compiler (printed more than|was still)"):
        isolation.overhear(listener.hear, {}, print_much, gigabytes=1000, then=None)


def test_flooding_build_is_built_again_without_messages(monkeypatch, capfd):
    def build():
        if os.environ.get("RKNN_LOG_LEVEL") == "3":
            print_much(1000, None)
        os.write(1, b"built\n")

    monkeypatch.setattr(compiler_log, "MOST_BYTES", 1e8)
    _, listener = compiler_log.overhear(build)
    assert listener is not None
    said = capfd.readouterr().out
    assert "building again without its messages" in said and said.endswith("built\n")
    assert len(said) < 2000


def test_what_is_no_message_of_the_compiler_is_bounded_too():
    log = bytearray()
    listener = compiler_log.Listener(log.extend)
    for _ in range(100):
        listener.hear(b"x" * 99_999 + b"\n")
    listener.hear(b"an end without a line's end")
    listener.end()
    assert compiler_log.MOST_LOG_BYTES < 100 * 100_000
    assert len(log) < compiler_log.MOST_LOG_BYTES + 100
    assert log.endswith(b"more bytes of output are left out)\n")


def test_errors_and_deaths_of_a_child_that_is_listened_to_are_told():
    def refuse():
        raise UserError("x is wrong")

    def die():
        os.write(1, b"a last word\n")
        os.kill(os.getpid(), 9)

    heard = bytearray()
    with pytest.raises(UserError, match=r"^x is wrong$"):
        isolation.overhear(heard.extend, {}, refuse)
    with pytest.raises(ToolkitError, match="killed by SIGKILL"):
        isolation.overhear(heard.extend, {}, die)
    assert heard == b"a last word\n"
    with pytest.raises(ZeroDivisionError):
        isolation.overhear(lambda block: 1 // 0, {}, print_much, gigabytes=1000, then=None)
