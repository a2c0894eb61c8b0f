"""Sets of prompts beside the main one, and the comparison with rewriting: known accuracies, and the main set's numbers unchanged."""

import json

import pandas as pd
import pytest
from helpers.finished_run import EACH, PROMPTS, RIGHT, SEEDS, UNPARSED, FinishedRun, prompt_set, write_arm
from helpers.miniature_adapter import random_adapter

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.evaluation.generated_images import read_images
from sur_adapter.evaluation.prompt_sets import judge_sets
from sur_adapter.evaluation.teacher import measure_teacher
from sur_adapter.generation.arms import ARMS
from sur_adapter.generation.rewriting import count_parameters
from sur_adapter.io.shards import write_table

SETS = {"hand": prompt_set({"wild": "counting", "known": "action"}), "reasoning": prompt_set({"colour": "color"}, 2 * EACH)}
SET_ARMS = {arm: correct for arm, correct in RIGHT.items() if not ARMS[arm].main_only}
BLOCKS = {"sets", "rewrite"}  # of metrics.json that another set of prompts adds to, or changes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    finished = FinishedRun(tmp_path_factory.mktemp("run"), sets=SETS)
    random_adapter(finished.adapter)
    finished.metrics = finished.run()
    finished.page = (finished.reports / "index.html").read_text(encoding="utf-8")
    return finished


def without(tree: dict, keys: set[str]) -> dict:
    return {key: value for key, value in tree.items() if key not in keys}


def test_the_numbers_of_the_main_set_do_not_depend_on_other_sets(finished, tmp_path):
    alone = FinishedRun(tmp_path)
    assert without(alone.run(), BLOCKS) == without(finished.metrics, BLOCKS)
    assert without(finished.metrics, BLOCKS)["counts"]["pictures"] == len(PROMPTS) * SEEDS * len(RIGHT)
    assert "sets" not in alone.run() and not (alone.reports / "plots/sets.csv").exists()
    for name in ("accuracy.csv", "arms.csv", "strength.csv"):
        assert (alone.reports / "plots" / name).read_bytes() == (finished.reports / "plots" / name).read_bytes()
    assert (alone.reports / "same_seed.png").read_bytes() == (finished.reports / "same_seed.png").read_bytes()
    assert (alone.reports / "ab_key.csv").read_bytes() == (finished.reports / "ab_key.csv").read_bytes()


def test_each_set_has_its_accuracy_by_arm_and_category(finished):
    for name, categories in {"hand": ("known", "wild"), "reasoning": ("colour",)}.items():
        block = finished.metrics["sets"][name]
        for arm, correct in SET_ARMS.items():
            assert set(block[arm]) == {*categories, "overall"}
            for rate in block[arm].values():
                assert rate["value"] == pytest.approx(correct / EACH) and rate["low"] < rate["high"]
        prompts = EACH * len(categories)
        counts = {"prompts": prompts, "pictures": prompts * SEEDS * len(SET_ARMS)}
        assert not set(block) & (set(RIGHT) - set(SET_ARMS)) and block["counts"] == counts | dict.fromkeys(categories, EACH)


def test_each_set_has_its_difference_and_gap_with_intervals(finished):
    for block in finished.metrics["sets"].values():
        assert block["difference"]["value"] == pytest.approx(4 / EACH) and block["gap_closed"]["value"] == pytest.approx(4 / 6, abs=1e-4)
        for interval in (block["difference"], block["gap_closed"]):
            assert interval["low"] < interval["value"] < interval["high"]
    assert finished.metrics["sets"]["hand"]["gap_closed"]["wild"]["low"] > 0
    assert finished.metrics["sets"]["hand"]["difference"]["known"]["value"] == pytest.approx(4 / EACH)


def test_rates_by_tag_are_of_the_prompts_with_that_tag(finished):
    tags = finished.metrics["sets"]["hand"]["tags"]
    assert set(tags) == {"even", "odd"} and tags["odd"]["prompts"] == EACH
    assert tags["even"]["adapter"]["value"] == pytest.approx(3 / 4), "of the places 0, 2, 4, 6 the first three are correct"
    assert set(tags["odd"]) == {"prompts", "baseline", "adapter", "rewrite", "complex"}


def test_the_adapter_is_compared_with_rewriting_on_every_set(finished):
    sets = finished.metrics["rewrite"]["sets"]
    assert list(sets) == ["hand", "main", "reasoning"]
    for name, categories in {"main": 3, "hand": 2, "reasoning": 1}.items():
        ratio, difference = sets[name]["ratio"], sets[name]["difference"]
        assert ratio["value"] == pytest.approx(6 / 5) and ratio["low"] <= ratio["value"] <= ratio["high"]
        assert difference["value"] == pytest.approx(1 / EACH) and (difference["win"], difference["loss"]) == (categories, 0)
        assert sets[name]["answers"] == {"prompts": EACH * categories, "unparsed": UNPARSED * categories}
    assert sets["hand"]["ratio"]["wild"]["value"] == pytest.approx(6 / 5)


def test_the_weights_of_both_are_counted(finished):
    weights = finished.metrics["rewrite"]["weights"]
    assert weights["llm"] == {"parameters": 3_000_000, "megabytes": 6.0}
    assert weights["adapter"]["parameters"] == count_parameters(SURAdapter.from_pretrained(finished.adapter))


def test_if_rewriting_is_never_right_the_ratio_is_left_out_with_a_note(tmp_path):
    finished = FinishedRun(tmp_path, right=RIGHT | {"rewrite": 0})
    block = finished.run(clip=None)["rewrite"]["sets"]["main"]
    assert block["ratio"] == {} and block["difference"]["value"] == pytest.approx(6 / EACH)
    assert "holds 0" in finished.notes()["rewrite.sets.main.ratio"]
    assert "left out" in (finished.reports / "index.html").read_text().split("Adapter against rewriting</h2>")[1]


def test_without_a_judge_sets_are_left_out_with_a_note(tmp_path):
    finished = FinishedRun(tmp_path, sets=SETS)
    metrics = finished.run(judge=None)
    assert "sets" not in metrics and "judged" in finished.notes()["sets.hand"]
    assert metrics["rewrite"]["sets"]["main"].keys() == {"answers"}


def test_a_set_without_images_is_left_out_with_a_note(tmp_path):
    finished = FinishedRun(tmp_path)
    finished.write_sets({"hand": SETS["hand"]})
    assert "sets" not in finished.run(clip=None) and "generate the arms with this set" in finished.notes()["sets.hand"]


def test_arms_that_only_serve_the_main_set_may_lack_the_others_and_do_not_count(finished):
    assert not any(ARMS[arm].main_only for arm in SET_ARMS) and set(RIGHT) - set(SET_ARMS) == {"complex_adapter", "expansion"}
    assert finished.metrics["semantic"]["on_complex"]["value"] == pytest.approx(-1 / EACH)


def test_a_set_that_one_arm_lacks_is_not_compared(tmp_path):
    finished = FinishedRun(tmp_path, sets=SETS)
    write_arm(finished.images, "complex", PROMPTS, 8)
    with pytest.raises(ValueError, match="complex and .*baseline hold different images"):
        finished.run(clip=None)


def test_images_of_sets_are_only_judged(finished):
    judged = pd.read_parquet(finished.reports / "judgements.parquet")
    others = judged[judged["set"] != "main"]
    assert others["set"].value_counts().to_dict() == {name: len(rows) * SEEDS * len(SET_ARMS) for name, rows in SETS.items()}
    assert others.shown.notna().all() and others[["clip_score", "sharpness", "distance"]].isna().all().all()
    assert judged[judged["set"] == "main"].clip_score.notna().all()
    asked = []
    judge_sets(finished.images, SETS, lambda images: asked.append(len(images)) or [[1.0]] * len(images))
    assert sum(asked) == len(others) < len(list(read_images(finished.images, list(RIGHT))))


def test_the_report_shows_the_sets_and_the_answers(finished):
    sets = finished.page.split("Other sets of prompts</h2>")[1].split("</section>")[0]
    assert all(word in sets for word in ("hand", "reasoning", "wild", "known", "colour", "Gap closed", "even"))
    assert sets.count("<b>75 %</b>") >= 3 + 2, "categories and overall"
    rewriting = finished.page.split("Adapter against rewriting</h2>")[1].split("</section>")[0]
    assert "<b>1.20</b>" in rewriting and "3 of 24" in rewriting and "6.00 MB (3,000,000 parameters)" in rewriting
    assert PROMPTS[-1]["complex_prompt"] in rewriting and "none: the prompt was drawn as it is" in rewriting


def test_the_sets_are_in_a_table_and_in_the_printed_text(finished, capsys):
    table = pd.read_csv(finished.reports / "plots/sets.csv")
    assert table[(table["set"] == "hand") & (table.arm == "adapter")].set_index("category").accuracy.to_dict() == dict.fromkeys(
        ("known", "wild", "overall"), 0.75
    )
    (finished.reports.parent / "timings").mkdir(exist_ok=True)
    (finished.reports.parent / "timings/rewrite.json").write_text(json.dumps({"rewriting_per_prompt": 0.25, "per_image": None}))
    finished.run(timings=finished.reports.parent / "timings")
    printed = capsys.readouterr().out
    assert "hand overall" in printed and "adapter 0.750" in printed and "0.2500 s rewriting per prompt" in printed


def test_two_runs_write_the_same_bytes(finished):
    before = finished.files()
    finished.run()
    assert finished.files() == before


def test_answers_are_exact_if_they_have_the_expected_parts(tmp_path):
    rows = [
        ("a", "reasoning/colour/near", "red circle, blue star", "blue star,red circle", True),
        ("b", "reasoning/colour/far", "1 red circle", "1 blue circle", True),
        ("c", "plain", "2 stars", None, True),
        ("d", "plain", None, "2 stars", True),
        ("e", "plain", "2 stars", "2 stars", False),
    ]
    table = pd.DataFrame(rows, columns=["id", "kind", "expected", "answer", "keep"])
    write_table(tmp_path / "sentences.parquet", table.drop(columns="answer"))
    write_table(tmp_path / "answers.parquet", table[table.keep][["id", "answer"]])
    teacher = measure_teacher(tmp_path / "sentences.parquet", tmp_path / "answers.parquet")[0]["teacher"]
    assert {kind: (rate["value"], rate["sentences"]) for kind, rate in teacher.items()} == {
        "overall": (pytest.approx(1 / 3), 3), "plain": (0, 1), "reasoning/colour": (0.5, 2)
    }  # fmt: skip
    finished = FinishedRun(tmp_path / "run")
    metrics = finished.run(sentences=tmp_path / "sentences.parquet", answers=tmp_path / "answers.parquet", clip=None)
    assert metrics["teacher"]["reasoning/colour"]["value"] == 0.5
    assert "Answers of the language model</h2>" in (finished.reports / "index.html").read_text()
    write_table(tmp_path / "sentences.parquet", table.assign(expected=None))
    metrics, notes = measure_teacher(tmp_path / "sentences.parquet", tmp_path / "answers.parquet")
    assert metrics == {} and "right answer" in notes["teacher"]
