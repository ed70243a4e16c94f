"""What the start of a run keeps of its inputs' content."""

import pytest

from helpers.places import small_disk
from zipquant.errors import UserError
from zipquant.jobs import content


def test_full_disk_is_named_where_the_content_of_inputs_is_kept(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    wav = tmp_path / "a.wav"
    wav.write_bytes(b"RIFF")
    with small_disk(results, "64k"):
        seen = content.Seen(results / "seen.json")
        seen.look(str(wav))
        with open(results / "filler", "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
        with pytest.raises(UserError, match=r"cannot write to .*seen.json \(No space left on"):
            seen.save()
        (results / "filler").unlink()
        seen.save()
        assert (results / "seen.json").exists()
