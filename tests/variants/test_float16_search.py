"""The emulation of a quantized graph, and the search for float16 layers, against the toolkit."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from helpers.audio import make_audio
from helpers.builds import build, calibrate, errors, unpadded
from helpers.models import zipformer2_like_encoder
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.model import noise
from zipquant.model.streaming import OnnxEncoder, stream
from zipquant.toolkit import layer_costs, quantized_graph
from zipquant.variants import (
    board_time,
    emulation,
    float16_cut,
    float16_order,
    float16_search,
    search_audio,
    sensitivity,
)

SLOW = board_time.price_of(
    "rk3588",
    {"npu_layer_us": 10, "cpu_layer_us": 10, "conversion_us": 10, "border_us": 0, "gb_per_s": 0.01},
)
"""A board that reads and writes so slowly that each byte counts, since the encoder is small."""

TARGET = {"target_sqnr": None, "target_wer_loss": None, "most_time_added": 10.0}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A small encoder, its contract, and its plain int8 variant with the toolkit's files."""
    folder = tmp_path_factory.mktemp("built")
    model = zipformer2_like_encoder(folder / "encoder.onnx")
    shape = calibrate(folder, model)
    with FrameWriter(folder / "features.h5") as writer:
        for number in range(3):
            writer.add(f"u{number}", features.fbank(make_audio(1.5, number)))
    record = build(folder, model)
    return folder, model, shape, record


def toolkit_files(folder):
    toolkit = folder / "variant/toolkit"
    return next(toolkit.glob("*.model")), next(toolkit.glob("*.cfg"))


def emulate(folder, shape):
    """Return the emulation of the plain variant, and what it keeps in float16."""
    graph_file, config_file = toolkit_files(folder)
    graph = quantized_graph.Graph(graph_file)
    scales = quantized_graph.read_scales(config_file)
    return emulation.Emulation(graph, scales, shape, per_channel=True), graph.borders()


def test_without_rounding_the_toolkits_graph_is_the_float_model(built):
    folder, model, shape, _ = built
    emulated, _ = emulate(folder, shape)
    frames = features.fbank(make_audio(2, 9))
    for step in stream(OnnxEncoder(model, shape), shape, [frames]):
        assert emulated.check(step.inputs[0], step.inputs[1:], step.encoder_out) < 1e-5


def test_rounding_gives_the_error_that_the_simulator_has(built):
    folder, model, shape, record = built
    emulated, borders = emulate(folder, shape)
    unseen = [features.fbank(make_audio(4, 50))]
    (expected,) = search_audio.encode(OnnxEncoder(model, shape), shape, unseen)
    (found,) = search_audio.encode(
        emulation.EmulatedEncoder(emulated, shape, borders), shape, unseen
    )
    sums = noise.compare(expected, found, noise.channel_means(expected))
    sqnr = noise.sqnr(sums["signal"], sums["noise"])
    simulated = errors(folder, model, shape, record).loc["encoder_out", "sqnr_db"]
    # Rounding that is left out, or done twice, is further off.
    assert abs(sqnr - simulated) < 0.2 and 15 < sqnr < 50


def test_lanes_do_not_influence_each_other(built):
    folder, _, shape, _ = built
    emulated, borders = emulate(folder, shape)
    encoder = emulation.EmulatedEncoder(emulated, shape, borders)
    utterances = [features.fbank(make_audio(1 + 0.3 * n, n)) for n in range(4)]
    together = search_audio.encode(encoder, shape, utterances, lanes=4)
    for frames, found in zip(utterances, together, strict=True):
        (alone,) = search_audio.encode(encoder, shape, [frames], lanes=1)
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_fewest_layers_that_meet_the_target_are_kept_in_float16_and_built(built, tmp_path):
    folder, model, shape, plain = built
    for name in ("model.json", "dataset.txt", "arrays"):
        (tmp_path / name).symlink_to(folder / name)
    before = errors(folder, model, shape, plain).loc["encoder_out", "sqnr_db"]
    settings = {
        "mixed_precision": TARGET | {"target_sqnr": before + 8},
        "original": model,
        "features": [folder / "features.h5"],
    }
    record = build(tmp_path, model, **settings)
    found = record["mixed_precision"]
    assert found["met"] and found["steps"][found["chosen"]]["sqnr_db"] >= before + 8
    fewer = found["steps"][: found["chosen"]]
    assert fewer and all(step["sqnr_db"] < before + 8 for step in fewer)
    assert 0 <= record["int8_macs_share"] < plain["int8_macs_share"] <= 1
    assert record["refusals"] == plain["refusals"]
    # What was emulated on calibration audio holds in the toolkit's simulator on other audio.
    assert errors(tmp_path, model, shape, record).loc["encoder_out", "sqnr_db"] > before + 4
    listed = json.loads((tmp_path / "variant/build.json").read_text())["mixed_precision"]
    assert [row["sqnr_db"] for row in listed["tensors"]] == sorted(
        row["sqnr_db"] for row in listed["tensors"]
    )
    assert any(row["float16"] for row in listed["tensors"])


def search(folder, model, shape, target, **options):
    graph_file, config_file = toolkit_files(folder)
    request = float16_search.Request(
        model=model,
        contract=shape,
        features=[folder / "features.h5"],
        target=float16_search.Target(**(TARGET | target)),
        per_channel=True,
        **options,
    )
    fixed = quantized_graph.Graph(graph_file).borders()
    return float16_search.search(graph_file, config_file, fixed, request)


def roundings_of(folder, model, shape):
    """Return the roundings of the plain variant with their noise, and what that was made of."""
    graph_file, _ = toolkit_files(folder)
    graph = quantized_graph.Graph(graph_file)
    emulated, borders = emulate(folder, shape)
    reference = OnnxEncoder(model, shape)
    audio = search_audio.Audio([folder / "features.h5"], shape, reference)
    found = float16_search.Roundings(graph, emulated, frozenset(borders))
    assert found.measure(shape, reference, audio) < 1e-5
    return graph, emulated, frozenset(borders), reference, audio, found


def test_one_backward_pass_ranks_roundings_as_trying_each_does(built, monkeypatch):
    folder, model, shape, _ = built
    # The masks of attention are far beyond what is linear: these are measured.
    monkeypatch.setattr(float16_search, "MEASURED", 4)
    _, emulated, borders, _, audio, found = roundings_of(folder, model, shape)
    present = [i for i, noise in enumerate(found.noise) if noise]
    each = [found.grids[i].tensors for i in present]
    tried = sensitivity.alone(
        emulated, shape, audio.utterances, audio.encoded, each, borders
    ) / sum(map(noise.varying_power, audio.encoded))
    estimated = np.array([found.noise[i] for i in present])
    assert len(present) > 20
    assert spearmanr(estimated, tried).statistic > 0.8
    assert abs(10 * np.log10(estimated.sum() / tried.sum())) < 2
    # It is drawn with a seed.
    assert roundings_of(folder, model, shape)[-1].noise == found.noise


def test_worst_roundings_are_measured_by_themselves(built, monkeypatch):
    folder, model, shape, _ = built
    *_, found = roundings_of(folder, model, shape)
    monkeypatch.setattr(float16_search, "MEASURED", 0)
    *_, estimated = roundings_of(folder, model, shape)
    differ = np.flatnonzero(np.array(found.noise) != np.array(estimated.noise))
    assert 0 < len(differ) <= 12
    assert int(np.argmax(estimated.noise)) in differ


def test_errors_in_common_count_as_one_value_and_masked_ones_as_none():
    draw = torch.Generator().manual_seed(3)
    gradient = torch.randn((4, 1, 64, 8), generator=draw)
    independent = torch.randn(gradient.shape, generator=draw)
    found = sensitivity._power(gradient, independent)
    assert found == pytest.approx(float((gradient * independent).square().sum()), rel=0.2)
    copied = independent[:, :, :1].expand(gradient.shape)
    found = sensitivity._power(gradient, copied)
    exact = float((gradient * copied).sum(2).square().sum())
    assert found == pytest.approx(exact, rel=0.3)
    # Half of the values have no say; their error, that of a mask cut off, is huge.
    masked = torch.arange(64) < 32
    gradient = gradient * masked[:, None]
    huge = torch.where(masked[:, None], independent, torch.tensor(1e3))
    found = sensitivity._power(gradient, huge)
    assert found == pytest.approx(float((gradient * huge).square().sum()), rel=0.2)


def test_errors_in_a_state_act_on_the_chunks_that_follow(built):
    folder, model, shape, _ = built
    emulated, borders = emulate(folder, shape)
    reference, borders = OnnxEncoder(model, shape), frozenset(borders)
    places = [name for name in emulated.scales if emulated.is_rounded(name, borders)]
    frames = features.fbank(make_audio(2, 3))

    def noise_of(chunks):
        cut = [frames[: shape.chunk_frames + chunks * shape.chunk_shift]]
        return sensitivity.measure(emulated, shape, reference, cut, places, borders).noise

    # The keys of a chunk are read again from the cache, the mask of a chunk never.
    one, eight = noise_of(1), noise_of(8)
    grown = {name: eight[name] / one[name] for name in places if one[name] > 0}
    assert max(grown.values()) > 12


def test_order_keeps_count_of_what_is_left(built):
    folder, model, shape, _ = built
    graph, emulated, borders, _, _, found = roundings_of(folder, model, shape)
    time = board_time.BoardTime(graph, emulated, SLOW)
    order = float16_order.Order(graph, emulated, found.grids, found.noise, time, borders)
    start, steps = order.start(), order.find(0.1)
    assert start.tensors == borders and len(steps) > 3
    float16, before = set(borders), start
    for step in steps:
        float16 |= step.tensors
        rounded = {i for i, g in enumerate(found.grids) if g.is_rounded(emulated, float16)}
        assert step.remaining == pytest.approx(sum(found.noise[i] for i in rounded), abs=1e-12)
        assert not rounded & set(step.gone)
        assert step.int8_macs_share == pytest.approx(graph.int8_macs_share(float16))
        assert step.remaining <= before.remaining
        assert step.time_added == pytest.approx(time.ms(float16) / time.ms(borders) - 1, abs=1e-9)
        assert step.time_added <= 0.1
        before = step


def test_no_choice_of_a_few_layers_beats_the_cut(built):
    folder, model, shape, _ = built
    graph, emulated, borders, _, _, found = roundings_of(folder, model, shape)
    time = board_time.BoardTime(graph, emulated, SLOW)
    choices = float16_cut.Cuts(time, found.grids, found.noise, borders).find()
    assert len(choices) > 2 and choices[-1].noise == 0
    for one, other in itertools.pairwise(choices):
        assert one.noise > other.noise and one.layers <= other.layers
        assert one.ms <= other.ms + 1e-9
    # What all choices have is left out of their times.
    rest = time.ms(borders | time.outputs(choices[0].layers)) - choices[0].ms
    for one in choices:
        assert time.ms(borders | time.outputs(one.layers)) == pytest.approx(one.ms + rest, abs=1e-9)
    free, draw = set(time.int8_layers(borders)), random.Random(0)
    for one, other in itertools.pairwise(choices):
        price = (other.ms - one.ms) / (one.noise - other.noise)
        least = one.ms + price * one.noise
        assert other.ms + price * other.noise == pytest.approx(least)
        for _ in range(30):
            # Near the cut, where a better one would be.
            layers = set(one.layers) ^ set(draw.sample(sorted(free), draw.randint(1, 4)))
            float16 = borders | time.outputs(layers)
            ms = time.ms(float16) - rest
            left = (i for i, g in enumerate(found.grids) if g.closure & free - layers)
            assert ms + price * sum(found.noise[i] for i in left) >= least - 1e-6


def test_time_is_kept_and_a_missed_target_is_told(built, monkeypatch):
    folder, model, shape, _ = built
    # As if the channels of so small an encoder filled their groups of bytes; float16 is free else.
    monkeypatch.setattr(layer_costs, "laid_out", unpadded)
    found = search(folder, model, shape, {"target_sqnr": 90, "most_time_added": 0.02}, price=SLOW)
    assert not found["met"] and found["times"] == board_time.OWN
    assert all(step["time_added"] <= 0.02 for step in found["steps"])
    best = max(step["sqnr_db"] for step in found["steps"])
    assert found["steps"][found["chosen"]]["sqnr_db"] == best
    more = search(folder, model, shape, {"target_sqnr": 90, "most_time_added": 10}, price=SLOW)
    assert more["steps"][-1]["sqnr_db"] > best


def test_target_in_words_counts_texts_that_differ(built):
    folder, model, shape, _ = built

    def recognize(encoded):
        # A word for each frame: the largest output, so that noise changes some.
        return [" ".join(f"w{n}" for n in frames.argmax(axis=1)) for frames in encoded]

    found = search(folder, model, shape, {"target_wer_loss": 2.0}, recognize=recognize)
    losses = [step["wer_loss"] for step in found["steps"]]
    assert losses[0] > losses[-1]
    assert found["met"] == (losses[found["chosen"]] <= 2.0)


def test_build_without_a_search_says_so_on_the_console(built, tmp_path, monkeypatch, capfd):
    folder, model, _, plain = built
    for name in ("model.json", "dataset.txt", "arrays"):
        (tmp_path / name).symlink_to(folder / name)
    operators = {name: op for name, op in emulation.OPERATORS.items() if name != "Tanh"}
    monkeypatch.setattr(emulation, "OPERATORS", operators)
    searched = {"original": model, "features": [folder / "features.h5"]}
    record = build(tmp_path, model, mixed_precision=TARGET, **searched)
    reason = record["mixed_precision"]["unavailable"]
    assert reason == "the toolkit's graph holds Tanh, which is not emulated yet"
    assert f"error: no search for float16 layers was made: {reason}" in capfd.readouterr().err
    assert record["int8_macs_share"] == plain["int8_macs_share"]


def test_operator_that_is_not_emulated_gives_no_search_and_the_reason(built, monkeypatch):
    folder, model, shape, _ = built
    operators = {name: op for name, op in emulation.OPERATORS.items() if name != "Tanh"}
    monkeypatch.setattr(emulation, "OPERATORS", operators)
    found = search(folder, model, shape, {"target_sqnr": 90})
    assert found == {
        "unavailable": "the toolkit's graph holds Tanh, which is not emulated yet",
        "float16": [],
    }


def test_multiply_accumulates_are_those_of_the_graph(built):
    folder, _, _, _ = built
    graph = quantized_graph.Graph(toolkit_files(folder)[0])
    weighted = [node for node in graph.nodes if graph.macs(node)]
    assert {node.op_type for node in weighted} <= {
        "Conv",
        quantized_graph.MATMUL,
        quantized_graph.ATTENTION,
    }
    # 4 rows of 80 numbers to 12, and in each of two layers 12 to 12, and attention over 20 keys.
    total = sum(graph.macs(node) for node in weighted)
    assert total >= 4 * 80 * 12 + 2 * 4 * 12 * 12
    assert graph.int8_macs_share([]) == 1
    assert graph.int8_macs_share([name for node in graph.nodes for name in node.output]) == 0


def test_product_of_matrices_takes_a_third_input_as_the_toolkit_joins_it():
    draw = np.random.default_rng(0)
    query, key = draw.normal(size=(2, 3, 4, 1, 5))
    third = draw.normal(size=(3, 5, 1, 5))
    arrays = [torch.from_numpy(array) for array in (query, key, third)]
    # (n, k, 1, m) and (n, k, 1, p) give (n, m, 1, p).
    product = np.einsum("nkm,nkp->nmp", query[:, :, 0], key[:, :, 0])[:, :, None]
    for kind, expected in ((b"add", product + third), (b"mul", product * third)):
        found = emulation.OPERATORS[quantized_graph.MATMUL](arrays, {"c_type": kind})
        np.testing.assert_allclose(found, expected)
    with pytest.raises(emulation.UnknownOperator, match="div"):
        emulation.OPERATORS[quantized_graph.MATMUL](arrays, {"c_type": b"div"})
