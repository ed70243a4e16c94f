"""What the report says in words, case by case."""

import math

import pytest

from zipquant.evaluation.verdict import Evidence, Judgement, Limits, Loss, Status
from zipquant.report import layers, words
from zipquant.toolkit import layer_costs

LIMITS = Limits(most_points_lost=1.0, most_text_changed=3.0, least_sqnr=15)

NO_STREAM = {"chunks": 0, "seconds": 0.0, "outputs": {}, "counters": {}, "wrong": []}

FITTING = Loss(0.3, 0.1, 0.6, 200, 8.0, True, "WER")


def variant(dtype: str, size: float, **changes) -> dict:
    """Return a variant as the report has it."""
    return {
        "build": {"dtype": dtype, "bytes": size, "refusals": []},
        "failure": None,
        "chunks": 40,
        "broken_chunks": 0,
        "drift": None,
        "inputs": {},
        "long_stream": NO_STREAM,
        "time": None,
        **changes,
    }


def judgement(status: Status = Status.FIT, why: str = "", needed: int | None = None, **known):
    """Return how a variant was judged, as best.json has it."""
    evidence = Evidence(**{"chunks": 40, "sqnr_db": 30.0, "loss": FITTING} | known)
    found = Judgement(status, tuple(why.split()), evidence, LIMITS, needed)
    return found.as_dict()


def rates(rate: float, points: float | None = None, interval=None) -> dict:
    """Return a model's figures as `scores.write` gives them."""
    entry = {"rate": rate, "interval": [rate - 1, rate + 1], "units": 900}
    found = {"transcript": {"word": entry}}
    if points is not None:
        entry["difference"] = {"points": points, "interval": interval}
        found |= {
            "float": {"word": {"rate": points, "interval": None, "units": 900}},
            "same": {"same": 190, "utterances": 200},
        }
    return found


def report_of(variants: dict, judgements: dict, models: dict | None = None, **changes) -> dict:
    """Return a report whose best variant is the first of `judgements`."""
    scores = {
        "unit": "word",
        "utterances": 200,
        "transcribed": 200,
        "models": models,
        "keywords": None,
    }
    return {
        "model": {"bytes": 80e6, "chunk_shift": 32},
        "settings": {"results": "results/mine", "platform": "rk3588"},
        "layers": {"networks": {}},
        "audio": {},
        "calibration": {"outliers": 0},
        "variants": variants,
        "recognition": scores if models else None,
        "choice": {"best": next(iter(judgements)), "judgements": judgements},
        "suitability": [],
        **changes,
    }


BOTH = {"int8": variant("w8a8", 20e6), "fp16": variant("float16", 40e6)}
MODELS = {"float": rates(8.0), "int8": rates(8.3, 0.3, [0.1, 0.6]), "fp16": rates(8.0, 0.0)}
BAD = Loss(30.0, 25.0, 35.0, 200, 8.0, True, "WER")


def headline(*arguments, **changes) -> str:
    return words.verdict(report_of(*arguments, **changes))["headline"]


def test_verdict_says_what_to_deploy_what_it_loses_and_against_what_it_is_smaller():
    found = words.verdict(report_of(BOTH, {"int8": judgement(), "fp16": judgement()}, MODELS))
    assert found["headline"] == (
        "Deploy int8: it loses 0.3 points WER against float; its file is 2.0 times smaller than "
        "the .rknn of fp16."
    )
    text = " ".join(found["sentences"])
    assert "The difference in WER lies between +0.1 and +0.6 points with 95 % confidence" in text
    assert "chance" not in text
    assert "in 190 of 200 utterances" in text
    tiles = {tile["what"]: (tile["figure"], tile["against"]) for tile in found["tiles"]}
    assert tiles["WER"] == ("8.3 %", "+0.3 points; float 8.0 %")
    assert tiles["size of the .rknn"] == ("20.0 MB", "2.0 times smaller than the .rknn of fp16")
    # What a tile says is not said again.
    assert not any(figure in text for figure, _ in tiles.values())


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({}, True),
        ({"price": [12, 18]}, False),
        ({"same": 190}, False),
        ({"status": Status.DOUBTFUL}, False),
        ({"refusals": ["x is int8"]}, False),
        ({"int8_macs_share": 0.0}, False),
        ({"measured": [12.0, 12.1]}, True),
        ({"measured": [12.0, 14.0]}, False),
        # A measurement is not compared with an estimate.
        ({"measured": [None, 12.0]}, False),
    ],
)
def test_next_steps_name_a_float16_variant_that_costs_nothing_and_changes_less(changes, hint):
    int8, float16 = variant("w8a8", 20e6), variant("float16", 40e6)
    int8["build"]["int8_macs_share"] = changes.get("int8_macs_share", 0.8)
    float16["build"]["refusals"] = changes.get("refusals", [])
    networks = {
        "int8": {"price": [11, 15]},
        "fp16": {"price": changes.get("price", [11.2, 15.2])},
    }
    for network, ms in zip(networks.values(), changes.get("measured", []), strict=False):
        network["measured"] = ms and {
            "median_ms": ms, "p95_ms": ms, "first_ms": ms, "last_ms": ms,
        }  # fmt: skip
    known = {"label": layer_costs.ESTIMATED, "networks": networks}
    models = {**MODELS, "fp16": rates(8.0, 0.0)}
    models["fp16"]["same"] = {"same": changes.get("same", 199), "utterances": 200}
    judgements = {"int8": judgement(), "fp16": judgement(changes.get("status", Status.FIT))}
    found = words.verdict(
        report_of({"int8": int8, "fp16": float16}, judgements, models, layers=known)
    )
    first = str(found["next"][0])
    assert ("fp16 gives float's text in 199 of 200 utterances, int8 in 190" in first) == hint
    if hint and not changes:
        assert (
            "time for a chunk is +1.5 % (estimated from public RK3588 figures, not measured)"
            in first
        )
        assert "20.0 MB larger" in first
        assert "variants: {int8: null}" in first


def test_verdict_tells_a_difference_that_chance_may_make():
    loss = Loss(0.3, -0.2, 0.6, 200, 8.0, True, "WER")
    judged = {"int8": judgement(loss=loss)}
    (first, *_) = words.verdict(report_of(BOTH, judged, MODELS))["sentences"]
    assert first.endswith("so chance alone may make it.")


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (0.0, "it loses no WER against float"),
        (-0.4, "it has 0.4 points less WER than float"),
    ],
)
def test_verdict_of_a_variant_that_loses_nothing(points, said):
    loss = Loss(points, points, 0.4, 200, 8.0, True, "WER")
    assert said in headline(BOTH, {"int8": judgement(loss=loss)}, MODELS)


def test_int8_that_is_too_bad_is_not_deployed_and_the_headline_says_why():
    judged = {"fp16": judgement(), "int8": judgement(Status.UNFIT, "loss", loss=BAD)}
    assert headline(BOTH, judged, MODELS) == (
        "Deploy fp16: int8 loses 30.0 points WER against float (1 point is allowed)."
    )
    judged["int8"] = judgement(Status.UNFIT, "sqnr", sqnr_db=9.0)
    assert headline(BOTH, judged, MODELS) == (
        "Deploy fp16: int8 has an encoder output of 9.0 dB (at least 15 dB is asked for)."
    )


def test_nothing_fit_is_do_not_deploy_with_the_likely_cause():
    unfit = judgement(Status.UNFIT, "loss", loss=BAD)
    silent = {"kind": "silent", "set": "calibration", "silent": 4, "used": 4}
    only = {"int8": BOTH["int8"]}
    said = headline(only, {"int8": unfit}, MODELS, suitability=[silent])
    assert said == (
        "Do not deploy: int8 loses 30.0 points WER against float (1 point is allowed). "
        "The likely cause: 4 of 4 files of the calibration audio are silent."
    )
    found = headline(BOTH, {"int8": unfit, "fp16": unfit}, MODELS)
    assert "int8 loses" in found and "fp16 loses" in found
    assert "float16 does not do either" in found
    search = {"mixed_precision": {"unavailable": "the toolkit's graph holds Foo"}}
    built = variant("w8a8", 20e6)
    built["build"] |= search
    said = headline({"int8": built}, {"int8": unfit}, MODELS)
    assert said.endswith(
        "no search for float16 layers was possible: the toolkit's graph holds Foo."
    )
    clipped = variant("w8a8", 20e6, inputs={"x": {"outside": 0.2}, "y": {"outside": 0.0}})
    said = headline({"int8": clipped}, {"int8": unfit}, MODELS)
    assert said.endswith("leaves the calibrated ranges (x the most, 20.0 %).")


def test_float16_that_overflows_says_so_with_tensor_and_value():
    time = {"target": "simulator", "overflow": {"tensor": "enc_big", "value": 3.2e6}}
    entry = variant("float16", 40e6, broken_chunks=12, time=time)
    entry["encoder_out"] = {
        mode: {"sqnr_db": math.nan, "cosine": math.nan, "broken_chunks": 12}
        for mode in ("one step", "free-running")
    }
    broken = judgement(Status.UNFIT, "broken", broken_chunks=12, sqnr_db=None)
    report = report_of({"fp16": entry}, {"fp16": broken}, MODELS)
    found = words.verdict(report)
    assert found["headline"] == (
        "Do not deploy: fp16 gives NaN or infinity in 12 of 40 chunks. The likely cause: fp16 "
        "overflows: the float model's tensor enc_big reaches 3,200,000, and float16 ends at 65,504."
    )
    (tile,) = (tile for tile in found["tiles"] if tile["what"] == "encoder output")
    assert (tile["figure"], tile["against"]) == ("NaN", "NaN or infinity in 12 of 40 chunks")
    (warning,) = words.warnings(report)
    assert warning.startswith("fp16 gives NaN or infinity in 12 of 40 chunks: the float model's")
    line = words.summary(report | {"verdict": found})[1]
    assert "inf dB" not in line and "NaN or infinity in 12 chunks, free-running" in line
    assert "enc_big reaches 3,200,000" in line


def test_few_utterances_show_nothing_yet():
    none = Loss(0.0, 0.0, 7.5, 8, 5.0, True, "WER")
    judged = {"int8": judgement(Status.NOT_SHOWN, "loss", 60, loss=none)}
    found = words.verdict(report_of(BOTH, judged, MODELS))
    assert found["headline"] == (
        "Not shown yet: 8 utterances cannot tell whether int8 loses more than 1 point WER; "
        "about 60 would."
    )
    assert found["sentences"][0] == (
        "The difference in WER lies between +0.0 and +7.5 points with 95 % confidence."
    )
    own = Loss(2.0, 1.0, 4.0, 30, 5.0, False, "CER")
    judged = {"int8": judgement(Status.NOT_SHOWN, "loss", 120, loss=own)}
    assert headline(BOTH, judged, MODELS) == (
        "Not shown yet: 30 utterances cannot tell whether int8 changes more than 3 % of the float "
        "model's text; about 120 would."
    )
    judged = {"int8": judgement(Status.NOT_SHOWN, "loss", None, loss=own)}
    assert headline(BOTH, judged, MODELS).endswith("so no number of them would.")


@pytest.mark.parametrize("why", ["no text", "no words", "float fails", "no chunk"])
def test_without_text_words_or_audio_nothing_is_claimed(why):
    judged = Judgement(
        Status.UNKNOWN, (why,), Evidence(0 if why == "no chunk" else 40, 0, 30.0), LIMITS
    )
    found = words.verdict(report_of(BOTH, {"int8": judged.as_dict()}))
    assert found["headline"].startswith("Nothing is claimed: int8 was not ")
    assert "eploy" not in found["headline"]
    assert any("whether its words are right is not known" in s for s in found["sentences"]) == (
        why != "no chunk"
    )


def test_verdict_names_refusals_and_failures():
    variants = {"int8": variant("w8a8", 20e6), "odd": {"build": {}, "failure": "no such layer"}}
    variants["int8"]["build"]["refusals"] = ["'Unsupported tensor type': x of type int8"]
    found = words.verdict(report_of(variants, {"int8": judgement()}, MODELS))
    assert "odd could not be built: no such layer" in found["sentences"]
    assert [t["figure"] for t in found["tiles"]][-1] == "cannot use it"


HALVES = {"early": [0, 4], "early_db": 30.0, "late": [5, 9], "late_db": 27.0}


def stream_of(**levels: tuple[float, float]) -> dict:
    outputs = {
        name: {"first_db": first, "last_db": last, "broken_chunks": 0}
        for name, (first, last) in levels.items()
    }
    return NO_STREAM | {"chunks": 190, "seconds": 60.0, "outputs": outputs, "wrong": list(levels)}


def test_report_has_one_voice_on_what_happens_along_a_stream():
    (said,) = words.along_a_stream(variant("w8a8", 1, drift=HALVES))
    assert said == (
        "Its error grows along a stream: 30.0 dB in chunks 0 to 4, 27.0 dB in chunks 5 to 9."
    )
    steady = HALVES | {"late_db": 30.5}
    (said,) = words.along_a_stream(variant("w8a8", 1, drift=steady))
    assert said.startswith("Its error does not grow along a stream")
    wrong = variant("w8a8", 1, drift=steady, long_stream=stream_of(new_cached_avg_0=(20.0, 8.0)))
    (said,) = words.along_a_stream(wrong)
    assert said == "Over a stream of 60 s, new_cached_avg_0 gets worse, from 20.0 to 8.0 dB."
    fine = variant("w8a8", 1, drift=HALVES, long_stream=stream_of())
    assert words.along_a_stream(fine) == ["Over a stream of 60 s no output goes wrong."]
    # What is bad all along does not go wrong with time.
    flat = stream_of(new_cached_avg_0=(8.2, 8.0))
    assert words.fault_of(flat["outputs"]["new_cached_avg_0"], 190) == (
        "is wrong from the start, 8.0 dB"
    )
    broken = {"first_db": None, "last_db": None, "broken_chunks": 3}
    assert words.fault_of(broken, 190) == "is NaN or infinite in 3 of 190 chunks"


def test_audio_that_cannot_serve_is_warned_of_in_words():
    faults = [
        {"kind": "level", "set": "evaluation", "low_db": -61.0, "high_db": -21.0},
        {"kind": "narrow", "set": "evaluation", "calibration_rate": 16000, "evaluation_rate": 8000},
        {
            **{"kind": "short", "set": "calibration", "chunks": 2},
            **{"seconds": 0.64, "needed_seconds": 2.56},
        },
    ]
    report = report_of(BOTH, {"int8": judgement()}, MODELS, suitability=faults)
    assert words.warnings(report) == [
        "The evaluation audio is 40 dB quieter than the calibration audio (-61 and -21 dB of full "
        "scale)",
        "The evaluation audio is of a narrower band: the calibration audio has 16000 Hz, the "
        "evaluation audio 8000 Hz",
        "The files of the calibration audio are too short to fill the states: the longest has 2 "
        "chunks (0.6 s), and caches and means need about 2.6 s",
    ]


def test_float_model_that_fails_is_warned_of():
    models = {"float": rates(80.0), "int8": rates(80.3, 0.3, [0.1, 0.6])}
    (warning,) = words.warnings(report_of({"int8": BOTH["int8"]}, {"int8": judgement()}, models))
    assert warning.startswith("The float model itself has 80 % WER")


def search(**changes) -> dict:
    """Return what a search for float16 layers has found, see `float16_search.search`."""
    steps = [
        {
            **{"time_added": added, "sqnr_db": db, "predicted_sqnr_db": db - 0.5},
            **{"wer_loss": loss, "int8_macs_share": 0.9},
        }
        for added, db, loss in ((0.0, 26.0, 3.0), (-0.005, 31.0, 0.4), (0.048, 34.0, 0.0))
    ]
    target = {"target_sqnr": 30, "target_wer_loss": 0.5, "most_time_added": 0.05}
    return {"met": True, **target, "steps": steps, "chosen": 1} | changes


def test_search_that_misses_its_target_or_could_not_be_done_is_warned_of():
    def warned(found: dict) -> list[str]:
        entry = variant("w8a8", 20e6)
        entry["build"]["mixed_precision"] = found
        return words.warnings(report_of({"int8": entry}, {"int8": judgement()}))

    assert warned(search()) == []
    steps = search()["steps"]
    (float16,) = warned(search(steps=[steps[0], steps[1] | {"int8_macs_share": 0.0}]))
    assert float16.startswith("int8 has become float16 throughout")
    (missed,) = warned(search(met=False))
    assert "an SQNR of at least 30 dB and at most 0.5 % of words lost" in missed
    assert "at most 5 % longer than plain int8" in missed
    (none,) = warned({"unavailable": "the graph holds Foo"})
    assert none.endswith("were not searched: the graph holds Foo")


def test_title_of_the_curve_says_what_float16_costs():
    titles = [words.precision_title("int8", search(chosen=chosen)) for chosen in range(3)]
    assert titles == [
        "int8: +0.0 % time against plain int8 gives 26.0 dB, which meets the target",
        "int8: -0.5 % time against plain int8 gives 31.0 dB, which meets the target",
        "int8: +4.8 % time against plain int8 gives 34.0 dB, which meets the target",
    ]


def test_emulation_that_is_not_the_simulator_is_warned_of_once():
    checks = [{"holds": True}, {"holds": False, "problem": "it is off"}, {"unavailable": "Foo"}]
    time = {"target": "simulator", "emulation": [*checks, checks[1]]}
    found = words._about_variant("int8", variant("w8a8", 20e6, time=time))
    assert found == ["int8: it is off"]


def test_share_of_work_in_int8_is_a_tile():
    entry = variant("w8a8", 20e6)
    entry["build"]["int8_macs_share"] = 0.957
    tiles = words.verdict(report_of({"int8": entry}, {"int8": judgement()}))["tiles"]
    assert {"work in int8": "95.7 %"}.items() <= {t["what"]: t["figure"] for t in tiles}.items()


def test_engine_that_made_the_figures_is_named():
    times = {"int8": "emulation", "fp16": "simulator", "board": "rk3588"}
    variants = {name: variant("w8a8", 1, time={"target": where}) for name, where in times.items()}
    said = "an emulation (int8) that was checked on a share of the audio against the simulator"
    assert words.ran_in(variants) == f"the simulator (fp16), or {said}"
    assert words.ran_in({"int8": variants["int8"]}) == said
    assert words.ran_in({name: variants[name] for name in ("fp16", "board")}) == "the simulator"


def test_what_a_board_has_shown_stands_in_the_place_of_the_estimate():
    took = {"median_ms": 9.1, "p95_ms": 9.9, "first_ms": 8.0, "last_ms": 9.6}
    network = {"price": [6.4, 18.5], "measured": took}
    report = report_of(
        BOTH,
        {"int8": judgement()},
        MODELS,
        layers={"networks": {"int8": network}},
        board={"board": "Orange Pi 5", "peak_mb": 118.0, "celsius": 61.2},
    )
    found = words.verdict(report)
    assert "9.1 ms" in [tile["figure"] for tile in found["tiles"]]
    assert (
        "On Orange Pi 5, a chunk takes 9.1 ms, 95 % of them 9.9 ms at most. It took 118 MB of "
        "memory. At the end the board was at 61 °C. It slows down from 8.0 to 9.6 ms as it gets "
        "warm."
    ) in found["sentences"]
    assert layers.time_of(network, None) == "9.1 ms (measured)"
