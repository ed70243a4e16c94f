"""Snakemake's benchmark files, and what else may stand in their place."""

import math

import pytest

from zipquant.jobs import benchmarks

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tcpu_time\n"


def test_rows_are_read(tmp_path):
    (tmp_path / "a.tsv").write_text(HEAD + "1.5\t0:00:01\t12.25\t3\t0.5\n2\t0:00:02\t-\tNA\tNA\n")
    first, second = benchmarks.read(tmp_path / "a.tsv")
    assert first == {"seconds": 1.5, "cpu_seconds": 0.5, "memory_mb": 12.25}
    assert second["seconds"] == 2 and math.isnan(second["memory_mb"])


@pytest.mark.parametrize(
    "row", ["", "1\n", "x\tx\tx\tx\tx\n", "inf\t0\t1\t1\t1\n", "-5\t0\t1\t1\t1\n"]
)
def test_damaged_row_is_left_out_with_a_warning(tmp_path, capsys, row):
    (tmp_path / "a.tsv").write_text(HEAD + row)
    assert benchmarks.read(tmp_path / "a.tsv") == []
    assert "a.tsv is no benchmark file of Snakemake's" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"garbage\n", b"\xff\xfe\0"])
def test_damaged_file_is_left_out_with_a_warning(tmp_path, capsys, content):
    (tmp_path / "a.tsv").write_bytes(content)
    assert benchmarks.read(tmp_path / "a.tsv") == []
    assert "a.tsv is no benchmark file of Snakemake's" in capsys.readouterr().err
