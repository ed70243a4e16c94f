"""Keywords in the evaluation: misses, false alarms, and whether there are too many."""

import shutil

import numpy as np
import pytest
import soundfile

from helpers.keywords import DEMO_AUDIO, DIGITS, ours
from helpers.places import DEMO_MODEL
from helpers.texts import PARTS, TAIL
from zipquant.audio import features
from zipquant.audio.frame_store import FrameWriter
from zipquant.errors import UserError
from zipquant.evaluation import keyword_scores, spotting, verdict
from zipquant.evaluation.keyword_scores import Expected
from zipquant.evaluation.verdict import Alarms, Evidence, Limits, Loss, Status
from zipquant.jobs import files
from zipquant.model import contract
from zipquant.plan import find_keywords
from zipquant.recognition.encoding import encode_shard
from zipquant.recognition.error_rates import Counts


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A folder with the features and the encoder outputs of the demo's audio, and keywords."""
    folder = tmp_path_factory.mktemp("shard")
    (folder / "keywords.txt").write_text(DIGITS, encoding="utf-8")
    contract.inspect(DEMO_MODEL).save(folder / "model.json")
    with FrameWriter(folder / "features.h5") as writer:
        writer.add("empty", np.zeros((3, 80), dtype=np.float32))
        for wav in DEMO_AUDIO:
            writer.add(wav.stem, features.extract(wav, "mean", TAIL))
    encode_shard(
        DEMO_MODEL, folder / "model.json", folder / "features.h5", folder / "encoded.h5", 16
    )
    return folder


def spot(folder, encoder=DEMO_MODEL):
    spotting.spot_shard(
        spotting.Model(encoder, folder / "model.json"),
        spotting.Search(folder / "keywords.txt", **PARTS),
        folder / "features.h5",
        folder / "encoded.h5",
        folder / "heard.json",
    )
    return files.read_json(folder / "heard.json")


def test_kept_encoder_outputs_give_what_a_stream_gives(shard):
    """What a stream gives is what sherpa-onnx gives, see tests/board."""
    found = spot(shard)
    assert found.pop("empty") == {"seconds": 0.03, "hits": []}
    names = {name: [keyword for keyword, _ in entry["hits"]] for name, entry in found.items()}
    assert names == {
        wav.stem: [name for _, name, _ in ours(DEMO_MODEL, PARTS, shard / "keywords.txt", wav)]
        for wav in DEMO_AUDIO
    }
    for wav in DEMO_AUDIO:
        end = soundfile.info(wav).duration + TAIL
        seconds = [second for _, second in found[wav.stem]["hits"]]
        assert seconds == sorted(seconds) and all(0 <= second < end for second in seconds)


def test_the_encoder_runs_again_only_behind_a_keyword(shard, tmp_path):
    folder = shutil.copytree(shard, tmp_path / "shard")
    (folder / "keywords.txt").write_text("▁nine ▁zero ▁nine ▁zero\n", encoding="utf-8")
    gone = tmp_path / "gone.onnx"
    assert not any(entry["hits"] for entry in spot(folder, gone).values())
    (folder / "keywords.txt").write_text("▁one\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"gone\.onnx"):
        spot(folder, gone)


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("Two three, four", {"two three": (0, 1), "TWO_THREE_FOUR": (1, 1), "four": (0, 1)}),
        ("two three two three four", {"two three": (1, 2), "TWO_THREE_FOUR": (1, 1)}),
        ("four four", {"four": (2, 2), "two three": (0, 0)}),
        ("twofour", {"four": (0, 0)}),
        ("one one one one one", {"one one": (2, 2)}),
        ("", {"four": (0, 0)}),
    ],
)
def test_a_keyword_is_expected_where_it_was_said(text, due):
    names = ["two three", "TWO_THREE_FOUR", "four", "one one"]
    found = keyword_scores.expected(names, text.replace(",", ""))
    assert {name: (found[name].least, found[name].most) for name in due} == due


def test_chinese_keywords_are_found_in_a_text_without_spaces():
    assert keyword_scores.expected(["你好"], "小明你好") == {"你好": Expected(1, 1)}


HEARD = {
    "float": {
        "a": {"seconds": 1800.0, "hits": {"four": 1}},
        "b": {"seconds": 1800.0, "hits": {"one": 1, "four": 1}},
    },
    "int8": {
        "a": {"seconds": 1800.0, "hits": {"one": 2}},
        "b": {"seconds": 1800.0, "hits": {"one": 1}},
    },
}
SAID = {"a": "four", "b": "one"}


def test_misses_and_false_alarms_are_counted_by_keyword_and_hour():
    found = keyword_scores.score(HEARD, ["one", "four", "never"], SAID)
    assert (found["transcribed"], found["hours"]) == (True, 1.0)
    assert found["said"] == {"one": 1, "four": 1, "never": 0}
    own, mine = found["models"]["float"], found["models"]["int8"]
    assert (own["misses"]["errors"], own["misses"]["units"], own["alarms"]) == (0, 2, 1)
    assert (mine["misses"]["errors"], mine["alarms"], mine["alarms_per_hour"]) == (1, 2, 2.0)
    assert mine["missed_of"] == {"one": 0, "four": 1, "never": 0}
    assert mine["alarms_of"] == {"one": 2, "four": 0, "never": 0}
    assert mine["misses"]["difference"]["points"] == 50.0


def test_without_transcripts_what_float_hears_is_expected():
    found = keyword_scores.score(HEARD, ["one", "four"], {})
    assert not found["transcribed"]
    assert found["said"] == {"one": 1, "four": 2}
    assert found["models"]["float"]["misses"]["errors"] == 0
    assert found["models"]["int8"]["misses"]["errors"] == 2
    assert found["models"]["int8"]["alarms"] == 2


def test_a_recording_that_was_cut_counts_as_one(tmp_path):
    for shard, pieces in enumerate((("a@cut0", "b"), ("a@cut1",))):
        entry = {name: {"seconds": 2.0, "hits": [["one", 0.5]]} for name in pieces}
        files.write_json(tmp_path / f"{shard}.json", entry)
    found = keyword_scores.read([tmp_path / "0.json", tmp_path / "1.json"])
    assert found == {
        "a": {"seconds": 4.0, "hits": {"one": 2}},
        "b": {"seconds": 2.0, "hits": {"one": 1}},
    }


LIMITS = Limits(1.0, 3.0, 15, most_keywords_lost=2.0, most_alarms_gained=1.0)
TEXT = Loss(9.0, 8.0, 10.0, 400, 5.0, True, "WER")
NO_ALARMS = Alarms(0.0, 0.0, 2.0)


def missed(points: float, low: float, high: float) -> Loss:
    return Loss(points, low, high, 400, 1.0, True, verdict.KEYWORDS)


@pytest.mark.parametrize(
    ("loss", "alarms", "status", "said"),
    [
        (missed(0.5, 0.0, 1.5), NO_ALARMS, Status.FIT, []),
        (missed(0.5, 0.0, 2.5), NO_ALARMS, Status.NOT_SHOWN, ["misses 0.5 points more of the"]),
        (
            missed(5.0, 3.0, 7.0),
            NO_ALARMS,
            Status.UNFIT,
            ["misses 5.0 points more of the keywords"],
        ),
        (missed(0.0, 0.0, 1.0), Alarms(3.0, 0.0, 2.0), Status.DOUBTFUL, ["gives 3.0 more false"]),
        (missed(0.0, 0.0, 1.0), Alarms(9.0, 4.0, 2.0), Status.UNFIT, ["gives 9.0 more false"]),
        # No keyword was said: text it is.
        (None, NO_ALARMS, Status.UNFIT, ["loses 9.0 points WER"]),
    ],
)
def test_keywords_decide_where_they_were_said(loss, alarms, status, said):
    found = verdict.judge(Evidence(40, 0, 30.0, TEXT, "", loss, alarms), LIMITS)
    assert found.status == status
    reasons = verdict.reasons(found)
    assert len(reasons) == len(said)
    assert all(a.startswith(b) for a, b in zip(reasons, said, strict=True))
    assert verdict.Judgement.from_dict(found.as_dict()) == found


def test_false_alarms_are_given_by_the_hour():
    seconds = np.array([1800.0, 1800.0])
    found = verdict.alarms_of(Counts(np.array([3, 0]), seconds), Counts(np.array([1, 0]), seconds))
    assert (round(found.an_hour, 6), found.hours) == (2.0, 1.0)
    assert found.low == 0


def test_keywords_for_a_model_without_a_decoder_are_refused():
    model = {"keywords": "keywords.txt", "encoder": "ctc.onnx"}
    with pytest.raises(UserError, match=r"ctc\.onnx lacks .*set model\.keywords to null"):
        find_keywords(model, None)
