"""The benchmarks measure what the project does: their small forms run on tables and shards of the current layout."""

import pytest

from experiments.benchmarks import filter as filtering
from experiments.benchmarks import reading, soak


def test_synthetic_rows_are_filtered_and_each_is_kept_or_has_a_reason(tmp_path):
    filtering.make(tmp_path, 3000)
    figures = {name: filtering.measure(tmp_path, overlap) for name, overlap in filtering.OVERLAPS.items()}
    for result in figures.values():
        assert result["kept"] + sum(result["dropped"].values()) == 3000 and result["dropped"].keys() >= {"clip_simple", "clip_complex"}
    assert figures["near"]["groups"] < figures["equal"]["groups"] < 3000


def test_cached_samples_are_read_and_their_bytes_counted(monkeypatch):
    monkeypatch.setattr(reading, "READ", 256)
    result = reading.measure(300)
    assert result["samples"] == 300 and result["kilobytes_a_sample"] == pytest.approx(2 * (2 * 77 * 768 + 4096) / 1000, abs=0.1)
    assert result["samples_per_second"] > 0


def test_growing_cost_and_memory_give_other_ratios_than_constant_ones():
    watch = soak.Watch()
    watch.marks = [(i, 0.002 * i, 10**8) for i in range(401)]
    flat = watch.figures()
    assert flat["cost_last_to_first"] == flat["memory_last_to_second"] == 1 and flat["cpu_ms_a_row_by_quarter"] == [2.0] * 4
    watch.marks = [(i, 1e-5 * i**2, 10**8 + 10**6 * i) for i in range(401)]
    grown = watch.figures()
    assert grown["cost_last_to_first"] == pytest.approx(7, abs=0.01) and grown["private_megabytes_at_most"] == 500
    assert grown["memory_last_to_second"] == pytest.approx(450.5 / 250.5, abs=0.001)


def test_every_sample_passes_the_trainers_reader_once_and_is_recorded():
    result = soak.soak_reading(700)
    assert (result["samples"], result["batches"]) == (700, 11) and len(result["cpu_ms_a_batch_by_quarter"]) == 4
    assert result["private_megabytes_at_most"] >= max(result["private_megabytes_by_quarter"]) > 0


def test_rows_are_counted_when_the_crawler_takes_them():
    watch = soak.Watch()
    assert list(watch.passing(iter("abcdefgh"), 8)) == list("abcdefgh")
    assert [done for done, _, _ in watch.marks] == list(range(9))


def test_a_small_soak_of_the_filter_reports_the_cost_per_row_of_each_size():
    result = soak.soak_filter(600, 300)
    assert [run["rows"] for run in result["runs"]] == [300, 600] and all(run["kept"] for run in result["runs"])
