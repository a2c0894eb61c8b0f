"""What the benchmarks time is what the project does: their small forms run, on tables and shards of today's shape."""

import pytest

from experiments.benchmarks import filter as filtering
from experiments.benchmarks import reading


def test_made_up_rows_are_filtered_and_each_is_kept_or_has_its_reason(tmp_path):
    filtering.make(tmp_path, 3000)
    figures = {name: filtering.measured(tmp_path, overlap) for name, overlap in filtering.OVERLAPS.items()}
    for found in figures.values():
        assert found["kept"] + sum(found["dropped"].values()) == 3000 and found["dropped"].keys() >= {"clip_simple", "clip_complex"}
    assert figures["near"]["groups"] < figures["equal"]["groups"] < 3000


def test_cached_samples_are_read_and_their_bytes_counted(monkeypatch):
    monkeypatch.setattr(reading, "READ", 256)
    found = reading.measure(300)
    assert found["samples"] == 300 and found["kilobytes_a_sample"] == pytest.approx(2 * (2 * 77 * 768 + 4096) / 1000, abs=0.1)
    assert found["samples_per_second"] > 0
