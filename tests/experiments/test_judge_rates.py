"""The measurement of the miniature's judge: faults that pass, good pictures that are refused, the closed gap at each strictness."""

import json
from pathlib import Path

import pytest
from helpers.finished_run import EACH, PROMPTS, RIGHT, write_arm
from helpers.repository import ROOT

from experiments import judge
from miniature.judge import STRICTNESS
from sur_adapter.generation.arms import ARMS


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished run of the first training, and one more training that draws fewer prompts right."""
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/all.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("generate: {prompts: prompts}\n")
    for arm in judge.ARMS_JUDGED:
        write_arm(tmp_path / "data/images", arm, PROMPTS, RIGHT[arm])
        write_arm(tmp_path / "data/ablations/full-s1/images", arm, PROMPTS, RIGHT[arm] - ARMS[arm].with_adapter)
    return tmp_path


def test_the_committed_page_is_that_of_the_committed_figures():
    figures = json.loads((ROOT / "experiments/judge.json").read_text(encoding="utf-8"))
    assert (ROOT / "experiments/judge.md").read_text(encoding="utf-8") == judge.format_page(figures)
    assert figures["each"] == judge.EACH and figures["each"] * len(figures["good"]) >= 300
    assert set(figures["refused"]) == set(judge.faulty_pictures.REFUSED) and set(figures["good"]) == set(judge.good_pictures.VARIATIONS)


def test_pictures_with_a_fault_and_good_ones_are_counted_at_each_strictness():
    figures = judge.measure_pictures(2)
    assert (
        figures["refused"]["a dot of one pixel"]["loose"]["count"] == 2
        and figures["not_seen"]["octagons for circles"]["strict"]["value"] == 1
    )
    assert figures["good"]["as drawn"] == {name: {"count": 0, "value": 0.0, "low": 0.0, "high": 0.6576} for name in STRICTNESS}
    assert judge._sum(figures["refused"], 2).endswith("default 0, strict 0 of 26")


def test_the_gap_is_that_of_the_images_of_all_trainings(folder):
    gap = judge.closed_gap(folder)
    assert gap["trainings"] == 2 and list(gap["main"]) == list(STRICTNESS)
    for block in gap["main"].values():  # all images are as drawn, so that the strictness changes nothing
        assert block["accuracy"]["adapter"]["overall"]["value"] == pytest.approx((RIGHT["adapter"] - 0.5) / EACH, abs=1e-4)
        closed = (RIGHT["adapter"] - 0.5 - RIGHT["baseline"]) / (RIGHT["complex"] - RIGHT["baseline"])
        assert block["gap_closed"]["value"] == pytest.approx(closed, abs=1e-4)
    page = judge.format_page({"gap": gap} | judge.measure_pictures(1))
    assert "2 trainings, 24 prompts × 2 images" in page and f"| gap closed | {closed:.2f} [" in page


def test_a_gap_that_is_not_above_0_is_not_a_number(folder):
    gap = judge.closed_gap(folder)
    for block in gap["main"].values():
        del block["gap_closed"]
    page = judge.format_page({"gap": gap} | judge.measure_pictures(1))
    assert "| gap closed | no gap | no gap | no gap |" in page


def test_a_folder_without_images_or_with_images_of_other_prompts_gives_one_sentence(folder):
    with pytest.raises(FileNotFoundError, match="images/baseline is missing: generate that arm first"):
        judge.main([str(folder / "prompts")])
    (folder / "prompts/all.jsonl").write_text(json.dumps(PROMPTS[0] | {"prompt": "another sentence"}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"was generated for another prompt '{PROMPTS[0]['id']}' than that of params.yaml"):
        judge.main([str(folder)])
