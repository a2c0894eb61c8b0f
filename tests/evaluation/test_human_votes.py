"""Votes are blinded, belong to exact images, and are summarised with their uncertainty."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.finished_run import EACH, PROMPTS, SETTINGS, FinishedRun, write_arm
from helpers.stages import evaluate

from miniature.scenes import CATEGORIES
from sur_adapter.evaluation.human_votes import COLUMNS, answer_key, krippendorff_alpha, read_votes, summarize_votes
from sur_adapter.evaluation.sample_selection import sample_pairs
from sur_adapter.reporting.vote_page import vote_page

ROOT = Path(__file__).parents[2]
HEADER = ",".join(COLUMNS)
TABLE = pd.DataFrame([(p["id"], p["category"], k) for p in PROMPTS for k in (0, 1)], columns=["id", "category", "seed"])
PROMPTS_BY_ID = {p["id"]: p for p in PROMPTS}
IMAGES = {(arm, i, k): f"{arm} {i} {k}".encode() for arm in ("baseline", "adapter") for i in PROMPTS_BY_ID for k in (0, 1)}
KEY = answer_key(sample_pairs(TABLE, EACH), PROMPTS_BY_ID, IMAGES)
BOTH_IMAGES = IMAGES | {("complex", i, k): f"complex {i} {k}".encode() for i in PROMPTS_BY_ID for k in (0, 1)}
BOTH_KEY = answer_key(sample_pairs(TABLE, EACH), PROMPTS_BY_ID, BOTH_IMAGES)  # pairs with baseline and with complex


def cast_votes(choices: dict[str, list[str]], key: pd.DataFrame = KEY) -> pd.DataFrame:
    """rater -> an arm, or another answer, for each of the first pairs; an arm as a vote for the side that it was shown on."""
    rows = []
    for rater, arms in choices.items():
        for pair, arm in zip(key.itertuples(), arms, strict=False):
            rows.append((pair.pair, rater, {pair.left: "left", pair.right: "right"}.get(arm, arm)))
    return pd.DataFrame(rows, columns=COLUMNS)


def summary(choices: dict[str, list[str]]) -> dict:
    return summarize_votes(cast_votes(choices), KEY, 500)[0]["human"]


def write_votes(folder: Path, *lines: str) -> Path:
    file = folder / "votes.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_each_category_has_the_same_number_of_distinct_prompts():
    pairs = sample_pairs(TABLE, 5)
    assert len({i for i, _ in pairs}) == len(pairs) == 5 * len(CATEGORIES)
    assert pd.Series([PROMPTS_BY_ID[i]["category"] for i, _ in pairs]).value_counts().tolist() == [5] * len(CATEGORIES)
    assert {k for _, k in pairs} == {0, 1}


def test_pairs_and_sides_depend_only_on_the_seed():
    again = answer_key(sample_pairs(TABLE.sample(frac=1, random_state=1), EACH), PROMPTS_BY_ID, IMAGES)
    other = answer_key(sample_pairs(TABLE, EACH), PROMPTS_BY_ID, IMAGES, seed=1)
    assert again.equals(KEY) and not other.left.equals(KEY.left)


def test_both_arms_appear_on_both_sides():
    assert (KEY.left != KEY.right).all() and 4 <= (KEY.left == "adapter").sum() <= len(KEY) - 4


def test_a_larger_sample_contains_the_smaller_one():
    assert set(answer_key(sample_pairs(TABLE, 3), PROMPTS_BY_ID, IMAGES).pair) < set(KEY.pair)


def test_the_win_rate_is_the_share_of_votes_for_the_adapter_and_a_tie_is_half():
    result = summary({"a": ["adapter"] * 6 + ["tie"] * 2 + ["baseline"] * 2})
    rate = result["win_rate"]
    assert rate["value"] == 0.7 and (rate["win"], rate["tie"], rate["loss"]) == (6, 2, 2)
    assert 0.3 < rate["low"] < 0.7 < rate["high"] < 0.95 and (result["votes"], result["raters"], result["pairs"]) == (10, 1, 10)


def test_both_right_and_both_wrong_are_counted_apart_and_are_half_a_win():
    result = summary({"a": ["adapter"] * 5 + ["both_right"] * 3 + ["both_wrong"] * 2, "b": ["baseline", "tie"]})
    assert result["answers"] == {"adapter": 5, "baseline": 1, "both_right": 3, "both_wrong": 2, "tie": 1}
    rate = result["win_rate"]
    assert rate["value"] == pytest.approx((3 + 0.5 + 0.75 + 5 * 0.5) / 10) and (rate["win"], rate["tie"], rate["loss"]) == (4, 6, 0)
    assert result["left"] == pytest.approx(cast_votes({"a": ["adapter"] * 5, "b": ["baseline"]}).vote.eq("left").mean(), abs=1e-4)


def test_both_right_and_both_wrong_are_no_agreement():
    assert summary({"a": ["both_right"] * 6, "b": ["both_wrong"] * 6})["agreement"] < 0
    assert summary({"a": ["both_right", "both_wrong"] * 3, "b": ["both_right", "both_wrong"] * 3})["agreement"] == 1


def test_each_prompt_is_compared_with_plain_and_with_keyword_prompt():
    compared = BOTH_KEY.assign(other=BOTH_KEY.left.where(BOTH_KEY.left != "adapter", BOTH_KEY.right))
    assert len(BOTH_KEY) == 2 * len(KEY) and BOTH_KEY.pair.is_unique
    assert compared.groupby("id").other.agg(set).map(lambda arms: arms == {"baseline", "complex"}).all()
    first = compared[: len(KEY)]
    assert first.id.is_unique and list(first.other[:4]) == ["baseline", "complex", "baseline", "complex"]
    for arm in ("baseline", "complex"):
        assert 4 <= (compared[compared.other == arm].left == "adapter").sum() <= len(KEY) - 4
    assert set(KEY.pair) < set(BOTH_KEY.pair), "votes on older pages still count"


def test_a_prompt_without_a_keyword_prompt_is_compared_with_the_plain_prompt_only():
    name = KEY.id[0]
    prompts = PROMPTS_BY_ID | {name: PROMPTS_BY_ID[name] | {"complex_prompt": None}}
    key = answer_key(sample_pairs(TABLE, EACH), prompts, BOTH_IMAGES)
    assert len(key) == 2 * len(KEY) - 1 and set(key[key.id == name][["left", "right"]].iloc[0]) == {"adapter", "baseline"}


def test_equal_images_of_baseline_and_complex_are_two_pairs():
    equal = dict.fromkeys(BOTH_IMAGES, b"the same")
    assert answer_key(sample_pairs(TABLE, EACH), PROMPTS_BY_ID, equal).pair.is_unique


def test_votes_against_the_keyword_prompt_have_a_block_of_their_own():
    others = BOTH_KEY.left.where(BOTH_KEY.left != "adapter", BOTH_KEY.right)
    votes = cast_votes({"a": list(others.map({"baseline": "adapter", "complex": "both_right"}))[:10]}, BOTH_KEY)
    numbers, notes = summarize_votes(votes, BOTH_KEY, 500)
    human, complex_pairs = numbers["human"], numbers["human"]["against_complex"]
    assert human["win_rate"]["value"] == 1 and human["answers"]["adapter"] == human["votes"] == 5
    assert complex_pairs["win_rate"]["value"] == 0.5 and complex_pairs["answers"]["both_right"] == complex_pairs["votes"] == 5
    assert "complex" in complex_pairs["answers"] and set(notes) == {"human.agreement", "human.against_complex.agreement"}


def test_without_votes_on_one_kind_of_pair_its_numbers_are_left_out_with_a_note():
    pairs = BOTH_KEY[(BOTH_KEY.left == "complex") | (BOTH_KEY.right == "complex")]
    numbers, notes = summarize_votes(cast_votes({"a": ["complex"] * 3}, pairs), BOTH_KEY, 500)
    assert set(numbers["human"]) == {"against_complex"} and numbers["human"]["against_complex"]["answers"]["complex"] == 3
    assert "no votes on pairs of the arms `adapter` and `baseline`" in notes["human.win_rate"]


def test_raters_are_averaged_before_pairs():
    crowd = {"a": ["adapter", "baseline"], "b": ["adapter"], "c": ["adapter"]}
    assert summary(crowd)["win_rate"]["value"] == 0.5


def test_every_category_has_a_rate():
    rate = summary({"a": list(KEY.category.map({"action": "adapter", "color": "baseline", "counting": "tie"}))})["win_rate"]
    assert [rate[name]["value"] for name in ("action", "color", "counting")] == [1, 0, 0.5]


def test_a_rater_who_always_votes_left_is_detected_and_changes_nothing():
    left = pd.DataFrame({"pair": KEY.pair, "rater": "a", "vote": "left"})
    result = summarize_votes(left, KEY, 500)[0]["human"]
    assert result["left"] == 1 and result["win_rate"]["value"] == round((KEY.left == "adapter").mean(), 4)


def test_alpha_is_one_for_agreement_and_near_zero_for_guesses():
    arms = ["adapter", "baseline"] * 10
    rng = np.random.default_rng(0)
    guesses = {rater: list(rng.choice(["adapter", "baseline"], len(KEY))) for rater in "abcdefgh"}
    assert summary({"a": arms, "b": arms})["agreement"] == 1 and abs(summary(guesses)["agreement"]) < 0.1


def test_alpha_matches_krippendorffs_example():
    """Four observers, twelve units, values missing: Krippendorff (2011), nominal α = 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[o[u] for o in observers if o[u] != "."] for u in range(12)]
    counts = np.array([[unit.count(value) for value in "12345"] for unit in units])
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=0.0005)


def test_agreement_of_one_rater_is_left_out_with_a_note():
    numbers, notes = summarize_votes(cast_votes({"a": ["adapter"] * 5}), KEY, 500)
    assert "agreement" not in numbers["human"] and "two raters" in notes["human.agreement"]


def test_votes_for_replaced_images_do_not_count_and_are_noted():
    replaced = IMAGES | {("adapter", i, k): b"another" for i in PROMPTS_BY_ID for k in (0, 1)}
    numbers, notes = summarize_votes(
        cast_votes({"a": ["adapter"] * 5}), answer_key(sample_pairs(TABLE, EACH), PROMPTS_BY_ID, replaced), 500
    )
    assert numbers == {} and "5 votes are for images" in notes["human.other_votes"] and "no votes" in notes["human"]


def test_all_answers_of_the_vote_page_and_ties_of_older_pages_are_read(tmp_path):
    answers = ["left", "right", "both_right", "both_wrong", "tie"]
    file = write_votes(tmp_path, HEADER, *(f"p{i},ann,{answer}" for i, answer in enumerate(answers)))
    assert list(read_votes(file).vote) == answers


def test_concatenated_vote_files_are_read_and_the_last_vote_counts(tmp_path):
    file = write_votes(tmp_path, "\ufeff" + HEADER, "p1,ann,left", "p1,ann,tie", HEADER, "p1,bob,right", "")
    assert read_votes(file).to_numpy().tolist() == [["p1", "ann", "tie"], ["p1", "bob", "right"]]


def test_the_votes_file_of_the_project_is_empty():
    assert read_votes(ROOT / "data" / "votes.csv").empty


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["pair;rater;vote"], "begins with 'pair;rater;vote': expected the header pair,rater,vote"),
        ([HEADER, "p1,ann,middle"], "line 2: 'p1,ann,middle' is not a vote"),
        ([HEADER, "p1,,left"], "line 2: 'p1,,left' is not a vote"),
        ([HEADER, "p1,left"], "line 2: 'p1,left' is not a vote"),
    ],
)
def test_a_line_that_is_not_a_vote_is_named(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_votes(write_votes(tmp_path, *lines))


def test_a_binary_file_and_a_missing_file_give_clear_errors(tmp_path):
    (tmp_path / "votes.csv").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(ValueError, match="not CSV in UTF-8"):
        read_votes(tmp_path / "votes.csv")
    with pytest.raises(FileNotFoundError, match="is missing: create it with the header pair,rater,vote"):
        read_votes(tmp_path / "none.csv")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FinishedRun:
    finished = FinishedRun(tmp_path_factory.mktemp("run"))
    evaluate_votes(finished, write_votes(finished.reports.parent, HEADER))
    return finished


def evaluate_votes(finished: FinishedRun, votes: Path) -> dict:
    r = finished.reports
    files = finished.prompts, finished.images, r / "funnel.json", r / "train", finished.adapter, r
    evaluate(*files, votes=votes, evaluate=SETTINGS | {"clip": None, "bootstrap_resamples": 500})
    return json.loads((r / "metrics.json").read_text())


def test_the_vote_page_names_no_arm_and_has_the_pairs_of_the_key(finished):
    page, key = (finished.reports / "ab_vote.html").read_text(), pd.read_csv(finished.reports / "ab_key.csv")
    assert not re.search("baseline|adapter|complex", page.split("<style>")[0] + page.split("</style>")[1])
    assert re.findall('data-pair="(\\w+)"', page) == list(key.pair)
    prompts = re.findall("<bdi>(.*?)</bdi>", page)
    assert prompts == [PROMPTS_BY_ID[i]["prompt"] for i in key.id]


def test_image_metadata_is_not_in_the_vote_page():
    from helpers.made_images import png

    with_metadata = {name: png(text={"parameters": f"made by {name[0]}"}) for name in IMAGES}
    page = vote_page(answer_key(sample_pairs(TABLE, 1), PROMPTS_BY_ID, with_metadata), PROMPTS_BY_ID, with_metadata)
    plain = {name: png() for name in IMAGES}
    assert re.findall('data:image/[^"]+', page) == re.findall(
        'data:image/[^"]+', vote_page(answer_key(sample_pairs(TABLE, 1), PROMPTS_BY_ID, plain), PROMPTS_BY_ID, plain)
    )


def test_large_images_are_shrunk_in_the_vote_page():
    from helpers.made_images import png

    large = dict.fromkeys(IMAGES, png(size=(1024, 768)))
    page = vote_page(answer_key(sample_pairs(TABLE, 1), PROMPTS_BY_ID, large), PROMPTS_BY_ID, large)
    assert page.count('width="512" height="384"') == 2 * len(CATEGORIES)


def test_without_votes_there_is_no_metric_but_a_note(finished):
    metrics = evaluate_votes(finished, write_votes(finished.reports.parent, HEADER))
    assert "human" not in metrics and "no votes" in finished.notes()["human"]
    assert "Human preference" not in (finished.reports / "index.html").read_text()


def test_votes_reach_the_metrics_and_the_report(finished, tmp_path):
    key = pd.read_csv(finished.reports / "ab_key.csv")
    file = tmp_path / "votes.csv"
    plain, keyword = (key[(key.left == arm) | (key.right == arm)] for arm in ("baseline", "complex"))
    votes = cast_votes({"a": ["adapter"] * 20, "b": ["adapter"] * 15 + ["baseline"] * 5}, plain)
    more = cast_votes({"a": ["both_right"] * 6 + ["both_wrong"] * 2, "b": ["both_right"] * 3 + ["complex"] * 5}, keyword)
    pd.concat([votes, more]).to_csv(file, index=False)
    metrics = evaluate_votes(finished, file)["human"]
    assert metrics["win_rate"]["value"] == 0.875 and metrics["raters"] == 2 and metrics["agreement"] < 1
    assert metrics["against_complex"]["answers"] == {"adapter": 0, "complex": 5, "both_right": 9, "both_wrong": 2, "tie": 0}
    page = (finished.reports / "index.html").read_text().split("Human preference</h2>")[1].split("</section>")[0]
    assert "<td>40 / 2 / 20</td><td>16 / 2 / 8</td>" in page
    assert '<th scope="row">both right</th><td>0</td><td>9</td>' in page and '<th scope="row">both wrong</th><td>0</td><td>2</td>' in page
    assert "neither is better" not in page, "only votes of older pages"
    assert not any(note.startswith("human") for note in finished.notes())


def test_two_evaluations_write_the_same_vote_page_and_key(finished):
    before = [(finished.reports / name).read_bytes() for name in ("ab_vote.html", "ab_key.csv")]
    evaluate_votes(finished, write_votes(finished.reports.parent, HEADER))
    assert [(finished.reports / name).read_bytes() for name in ("ab_vote.html", "ab_key.csv")] == before


def test_a_replaced_image_changes_the_name_of_its_pair(tmp_path):
    finished = FinishedRun(tmp_path)
    no_votes = write_votes(tmp_path, HEADER)
    evaluate_votes(finished, no_votes)
    before = pd.read_csv(finished.reports / "ab_key.csv")
    write_arm(finished.images, "adapter", PROMPTS, 7)
    evaluate_votes(finished, no_votes)
    after = pd.read_csv(finished.reports / "ab_key.csv")
    changed = set(before.id[before.pair != after.pair])
    assert changed == {p["id"] for p in PROMPTS if p["id"].endswith("-006")} and before.left.equals(after.left)


def test_the_vote_page_needs_a_pair_per_category(tmp_path):
    with pytest.raises(ValueError, match="evaluate.num_vote_pairs is 0"):
        evaluate(*[tmp_path] * 6, evaluate=SETTINGS | {"num_vote_pairs": 0})


def test_votes_are_checked_before_images_are_measured(tmp_path):
    files = FinishedRun(tmp_path)
    with pytest.raises(ValueError, match="is not a vote"):
        evaluate_votes(files, write_votes(tmp_path, HEADER, "nonsense"))
    assert not (files.reports / "metrics.json").exists()


def test_a_quoted_name_with_a_comma_is_one_cell(tmp_path):
    file = tmp_path / "votes.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([COLUMNS, ["p1", "Ann, B", "left"]])
    assert read_votes(file).rater.tolist() == ["Ann, B"]
