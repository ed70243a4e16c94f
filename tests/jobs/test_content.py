"""What the start of a run keeps of its inputs' content."""

import os
import subprocess

import pytest

from zipquant.errors import UserError
from zipquant.jobs import content


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount a small disk")
def test_full_disk_is_named_where_the_content_of_inputs_is_kept(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    wav = tmp_path / "a.wav"
    wav.write_bytes(b"RIFF")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", results], check=True)
    try:
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
    finally:
        subprocess.run(["umount", results], check=True)
