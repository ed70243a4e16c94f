"""What float16 adds to the time on a board, predicted, against what the compiler makes."""

import pytest

from helpers.audio import make_audio
from helpers.builds import build, calibrate, unpadded
from helpers.models import zipformer2_like_encoder
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.toolkit import layer_costs, quantized_graph
from zipquant.toolkit.layer_table import Table
from zipquant.toolkit.variant_folder import LAYERS
from zipquant.variants import board_time, emulation

SEARCH = {"target_sqnr": None, "target_wer_loss": None, "most_time_added": 10}
SLOW = {"npu_layer_us": 10, "cpu_layer_us": 10, "conversion_us": 10, "border_us": 0}
SLOW["gb_per_s"] = 0.003  # so that float16 is dear, and some of so small an encoder stays in int8


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small encoder, its contract, and the folders of variants with less and more in float16."""
    folder = tmp_path_factory.mktemp("built")
    model = zipformer2_like_encoder(folder / "encoder.onnx")
    shape = calibrate(folder, model)
    with FrameWriter(folder / "features.h5") as writer:
        writer.add("u", features.fbank(make_audio(1.5, 0)))
    searched = {"original": model, "features": [folder / "features.h5"], "board_costs": SLOW}
    for target in (None, 25, 45):
        wanted = target and {**SEARCH, "target_sqnr": target}
        given = searched if target else {}
        build(folder, model, mixed_precision=wanted, **given)
        (folder / "variant").rename(folder / str(target))
    return shape, [folder / str(target) for target in (None, 25, 45)]


def predicted(work, shape):
    """Return a predictor for a variant, and the tensors that are float16 in it."""
    graph_file, config = (next((work / "toolkit").glob(f"*.{kind}")) for kind in ("model", "cfg"))
    graph, scales = quantized_graph.Graph(graph_file), quantized_graph.read_scales(config)
    emulated = emulation.Emulation(graph, scales, shape, per_channel=True)
    time = board_time.BoardTime(graph, emulated, board_time.price_of("rk3588"))
    return time, set(quantized_graph.float16_tensors(config))


def test_changes_of_type_are_those_that_the_compiler_makes(built):
    shape, works = built
    counts, others = [], set()
    for work in works:
        time, float16 = predicted(work, shape)
        made = Table.read(work / LAYERS).summary()
        load = time.load(float16)
        # One more may stand behind what comes out of integers, such as a mask.
        assert 0 <= made["types"].get("exDataConvert", 0) - load.conversions <= 1
        others.add(made["layers"] - time.describe(float16)["layers"])
        counts.append(load.conversions)
    # Some that the compiler adds for the inputs are not predicted, the same ones for all choices.
    assert max(others) - min(others) <= 1 and 0 <= min(others) < 6
    assert counts[0] > 10 > counts[2]


def test_float16_takes_no_change_of_type_but_twice_the_bytes(built, monkeypatch):
    """Where channels fill their groups of bytes, as those of so small an encoder do not."""
    monkeypatch.setattr(layer_costs, "laid_out", unpadded)
    shape, works = built
    time, float16 = predicted(works[0], shape)
    whole = time.load(float16 | time.outputs(time.int8_layers(float16)))
    assert whole.conversions == 0 and whole.moved > time.load(float16).moved


def test_what_layers_add_is_the_difference_of_the_whole(built):
    shape, works = built
    time, float16 = predicted(works[0], shape)
    before, kept = time.ms(float16), set(float16)
    layers = time.int8_layers(float16)
    for number in range(0, len(layers), 5):
        some = layers[number : number + 3]
        added = time.added(some, float16)
        assert float16 == kept
        assert added == pytest.approx(time.ms(float16 | time.outputs(some)) - before, abs=1e-9)


def test_other_platforms_get_relative_times_and_own_costs_absolute_ones(built):
    shape, works = built
    price = board_time.price_of("rk3576")
    assert price.kind == board_time.RELATIVE
    assert price.costs == layer_costs.costs(board_time.LIKE)
    own = {"npu_layer_us": 9, "cpu_layer_us": 9, "conversion_us": 9, "border_us": 0, "gb_per_s": 8}
    assert board_time.price_of("rk3576", own).kind == board_time.OWN
    time, float16 = predicted(works[0], shape)
    low, high = time.describe(float16)["predicted_ms"]
    assert 0 < low < time.ms(float16) < high
    time.price = price
    assert time.describe(float16)["predicted_ms"] is None


def test_bytes_are_those_that_the_compiler_counts_but_for_what_all_choices_have(built):
    shape, works = built
    shares = []
    for work in works:
        time, float16 = predicted(work, shape)
        made = sum(layer_costs.load(layer).moved for layer in Table.read(work / LAYERS).layers)
        shares.append(time.load(float16).moved / made)
    # What the compiler adds for the inputs is not predicted.
    assert min(shares) > 0.7 and max(shares) < min(shares) + 0.1


@pytest.mark.parametrize(
    ("shape", "width", "size"),
    [
        # Read by layers of the demo's encoder, as the compiler's table has it.
        ((10, 1, 96, 30), 1, 460_800),
        ((10, 1, 96, 30), 2, 460_800),
        ((1, 152, 4, 48), 1, 30_720),
        ((4, 36, 1, 32), 1, 6_144),
        ((1, 96, 1, 16), 2, 3_072),
        # Not laid out by pixels.
        ((1, 7), 2, 14),
    ],
)
def test_channels_are_read_in_groups_of_sixteen_bytes(shape, width, size):
    assert layer_costs.laid_out(shape, width) == size
