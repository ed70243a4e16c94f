"""Whether the audio can serve."""

import pytest

from zipquant.audio.index import Entry
from zipquant.report import suitability


def files(*levels: float, rate: int = 16000) -> dict:
    """Return what files of these levels are like."""
    return suitability.describe(
        [
            Entry(
                f"u{n}",
                f"u{n}.wav",
                "0",
                "",
                "3.0",
                "",
                str(rate),
                str(level),
                "",
                "is silent" * (level < -90),
            )
            for n, level in enumerate(levels)
        ]
    )


def kinds(first: dict, second: dict, **last: int | None) -> list[tuple[str, str]]:
    chunks = {"calibration": 40, "evaluation": 40} | last
    audio = {"calibration": first, "evaluation": second}
    return [(f["kind"], f["set"]) for f in suitability.examine(audio, chunks, 0.32)]


USUAL = files(-20, -25, -30)


def test_usual_audio_serves():
    assert kinds(USUAL, files(-28, -35, -20)) == []


@pytest.mark.parametrize("levels", [(-120, -120, -120), (-120, -20, -120)])
def test_silence_is_named(levels):
    assert kinds(files(*levels), USUAL) == [("silent", "calibration")]
    assert kinds(files(-20, -20, -120), USUAL) == []


def test_much_quieter_set_is_named():
    # As quiet as it is, it is not silent.
    assert kinds(USUAL, files(-62, -63)) == [("level", "evaluation")]
    found = suitability.examine({"calibration": USUAL, "evaluation": files(-58, -59)}, {}, 0.32)
    assert [(f["kind"], f["set"]) for f in found] == [("level", "evaluation")]
    assert found[0]["high_db"] - found[0]["low_db"] == pytest.approx(33.5)
    assert kinds(files(-58), USUAL) == [("level", "calibration")]


def test_other_band_is_named():
    assert kinds(USUAL, files(-20, -20, rate=8000)) == [("narrow", "evaluation")]
    assert kinds(files(-20, rate=8000), files(-20, rate=8000)) == []
    assert kinds(files(-20, rate=44100), USUAL) == []


def test_clips_too_short_to_fill_the_states_are_named():
    assert kinds(USUAL, USUAL, calibration=1) == [("short", "calibration")]
    assert kinds(USUAL, USUAL, calibration=None, evaluation=6) == [("short", "evaluation")]
    assert kinds(USUAL, USUAL, calibration=7) == []


def test_no_files_are_no_fault():
    assert kinds(files(), files(), calibration=None, evaluation=None) == []
