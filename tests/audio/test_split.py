"""One folder of audio for both: who is measured with is not calibrated with."""

import pytest

from zipquant.audio.manifest import Utterance
from zipquant.audio.split import EVALUATION_SHARE, split


def spoken(speakers: int, each: int) -> list[Utterance]:
    names = [f"s{speaker}/{n}" for speaker in range(speakers) for n in range(each)]
    return [Utterance(name, f"{name}.wav") for name in names]


def speakers(utterances: list[Utterance]) -> set[str]:
    return {utterance.id.split("/")[0] for utterance in utterances}


@pytest.mark.parametrize("count", [4, 10, 100])
def test_no_voice_is_in_both_sets(count):
    everything = spoken(count, 5)
    found = split(everything)
    assert not speakers(found.calibration) & speakers(found.evaluation)
    assert sorted(found.calibration + found.evaluation, key=lambda u: u.id) == sorted(
        everything, key=lambda u: u.id
    )
    assert found.calibration and found.evaluation and "by folder" in found.how


def test_few_folders_are_split_by_file():
    found = split(spoken(2, 500))
    assert "by file" in found.how and speakers(found.evaluation) == {"s0", "s1"}
    assert len(found.evaluation) / 1000 == pytest.approx(EVALUATION_SHARE, abs=0.05)


def test_two_files_give_one_to_each_set():
    found = split(spoken(1, 2))
    assert len(found.calibration) == len(found.evaluation) == 1


@pytest.mark.parametrize("speakers", [2, 20])
def test_added_audio_moves_no_other_file(speakers):
    before, after = split(spoken(speakers, 30)), split(spoken(speakers + 20, 30))
    if speakers == 2:
        after = split(spoken(speakers, 60))
    assert set(before.evaluation) <= set(after.evaluation)
    assert set(before.calibration) <= set(after.calibration)
