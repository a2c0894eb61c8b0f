"""Votes are blind, name the very pictures, and say no more than they can."""

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
ASKED = {p["id"]: p for p in PROMPTS}
PICTURES = {(arm, i, k): f"{arm} {i} {k}".encode() for arm in ("baseline", "adapter") for i in ASKED for k in (0, 1)}
KEY = answer_key(sample_pairs(TABLE, EACH), ASKED, PICTURES)


def ballot(choices: dict[str, list[str]], key: pd.DataFrame = KEY) -> pd.DataFrame:
    """rater -> an arm, or tie, for each of the first pairs; as votes for the sides these were shown on."""
    rows = []
    for rater, arms in choices.items():
        for pair, arm in zip(key.itertuples(), arms, strict=False):
            rows.append((pair.pair, rater, "tie" if arm == "tie" else "left" if pair.left == arm else "right"))
    return pd.DataFrame(rows, columns=COLUMNS)


def human(choices: dict[str, list[str]]) -> dict:
    return summarize_votes(ballot(choices), KEY, 500)[0]["human"]


def written(folder: Path, *lines: str) -> Path:
    file = folder / "votes.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_each_prompt_is_voted_on_once_as_many_of_each_category():
    drawn = sample_pairs(TABLE, 5)
    assert len({i for i, _ in drawn}) == len(drawn) == 5 * len(CATEGORIES)
    assert pd.Series([ASKED[i]["category"] for i, _ in drawn]).value_counts().tolist() == [5] * len(CATEGORIES)
    assert {k for _, k in drawn} == {0, 1}


def test_the_seed_alone_decides_lot_and_sides():
    again = answer_key(sample_pairs(TABLE.sample(frac=1, random_state=1), EACH), ASKED, PICTURES)
    other = answer_key(sample_pairs(TABLE, EACH), ASKED, PICTURES, seed=1)
    assert again.equals(KEY) and not other.left.equals(KEY.left)


def test_both_arms_stand_on_both_sides():
    assert (KEY.left != KEY.right).all() and 4 <= (KEY.left == "adapter").sum() <= len(KEY) - 4


def test_a_longer_lot_keeps_the_pairs_of_a_shorter_one():
    assert set(answer_key(sample_pairs(TABLE, 3), ASKED, PICTURES).pair) < set(KEY.pair)


def test_the_rate_is_the_share_of_votes_for_the_adapter_and_a_tie_is_half():
    found = human({"a": ["adapter"] * 6 + ["tie"] * 2 + ["baseline"] * 2})
    rate = found["win_rate"]
    assert rate["value"] == 0.7 and (rate["win"], rate["tie"], rate["loss"]) == (6, 2, 2)
    assert 0.3 < rate["low"] < 0.7 < rate["high"] < 0.95 and (found["votes"], found["raters"], found["pairs"]) == (10, 1, 10)


def test_raters_of_a_pair_are_averaged_before_pairs_are():
    crowd = {"a": ["adapter", "baseline"], "b": ["adapter"], "c": ["adapter"]}
    assert human(crowd)["win_rate"]["value"] == 0.5


def test_every_category_has_its_rate():
    rate = human({"a": list(KEY.category.map({"action": "adapter", "color": "baseline", "counting": "tie"}))})["win_rate"]
    assert [rate[name]["value"] for name in ("action", "color", "counting")] == [1, 0, 0.5]


def test_who_always_takes_the_left_is_seen_and_wins_nothing():
    left = pd.DataFrame({"pair": KEY.pair, "rater": "a", "vote": "left"})
    found = summarize_votes(left, KEY, 500)[0]["human"]
    assert found["left"] == 1 and found["win_rate"]["value"] == round((KEY.left == "adapter").mean(), 4)


def test_raters_who_agree_have_alpha_one_and_guessers_about_nought():
    arms = ["adapter", "baseline"] * 10
    rng = np.random.default_rng(0)
    guesses = {rater: list(rng.choice(["adapter", "baseline"], len(KEY))) for rater in "abcdefgh"}
    assert human({"a": arms, "b": arms})["agreement"] == 1 and abs(human(guesses)["agreement"]) < 0.1


def test_alpha_is_that_of_krippendorffs_own_example():
    """Four observers, twelve units, values missing: Krippendorff (2011), nominal α = 0.743."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [[o[u] for o in observers if o[u] != "."] for u in range(12)]
    counts = np.array([[unit.count(value) for value in "12345"] for unit in units])
    assert krippendorff_alpha(counts) == pytest.approx(0.743, abs=0.0005)


def test_agreement_of_one_rater_is_left_out_and_said():
    numbers, notes = summarize_votes(ballot({"a": ["adapter"] * 5}), KEY, 500)
    assert "agreement" not in numbers["human"] and "two raters" in notes["human.agreement"]


def test_votes_for_pictures_drawn_anew_do_not_count_and_are_told():
    anew = PICTURES | {("adapter", i, k): b"another" for i in ASKED for k in (0, 1)}
    numbers, notes = summarize_votes(ballot({"a": ["adapter"] * 5}), answer_key(sample_pairs(TABLE, EACH), ASKED, anew), 500)
    assert numbers == {} and "5 votes are for images" in notes["human.other_votes"] and "no votes" in notes["human"]


def test_files_of_several_raters_one_after_the_other_are_one_file_and_the_last_word_counts(tmp_path):
    file = written(tmp_path, "\ufeff" + HEADER, "p1,ann,left", "p1,ann,tie", HEADER, "p1,bob,right", "")
    assert read_votes(file).to_numpy().tolist() == [["p1", "ann", "tie"], ["p1", "bob", "right"]]


def test_the_file_that_comes_with_the_project_holds_no_vote():
    assert read_votes(ROOT / "data" / "votes.csv").empty


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["pair;rater;vote"], "begins with 'pair;rater;vote': expected the header pair,rater,vote"),
        ([HEADER, "p1,ann,middle"], "line 2: 'p1,ann,middle' is not a vote"),
        ([HEADER, "p1,,left"], "line 2: 'p1,,left' is not a vote"),
        ([HEADER, "p1,left"], "line 2: 'p1,left' is not a vote"),
    ],
)
def test_a_line_that_is_no_vote_is_named(tmp_path, lines, sentence):
    with pytest.raises(ValueError, match=sentence):
        read_votes(written(tmp_path, *lines))


def test_a_file_that_is_no_text_and_one_that_is_missing_get_a_sentence(tmp_path):
    (tmp_path / "votes.csv").write_bytes(b"\xff\xfe\x00p")
    with pytest.raises(ValueError, match="not CSV in UTF-8"):
        read_votes(tmp_path / "votes.csv")
    with pytest.raises(FileNotFoundError, match="is missing: create it with the header pair,rater,vote"):
        read_votes(tmp_path / "none.csv")


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> FinishedRun:
    world = FinishedRun(tmp_path_factory.mktemp("run"))
    vote(world, written(world.reports.parent, HEADER))
    return world


def vote(world: FinishedRun, votes: Path) -> dict:
    r = world.reports
    files = world.prompts, world.images, r / "funnel.json", r / "train", world.adapter, r
    evaluate(*files, votes=votes, evaluate=SETTINGS | {"clip": None, "bootstrap_resamples": 500})
    return json.loads((r / "metrics.json").read_text())


def test_the_page_names_no_arm_and_its_pictures_are_those_of_the_key(world):
    page, kept = (world.reports / "ab_vote.html").read_text(), pd.read_csv(world.reports / "ab_key.csv")
    assert not re.search("baseline|adapter|complex", page.split("<style>")[0] + page.split("</style>")[1])
    assert re.findall('data-pair="(\\w+)"', page) == list(kept.pair)
    prompts = re.findall("<bdi>(.*?)</bdi>", page)
    assert prompts == [ASKED[i]["prompt"] for i in kept.id]


def test_what_a_pictures_file_says_of_itself_stays_out_of_the_page():
    from helpers.made_images import png

    told = {name: png(text={"parameters": f"drawn by {name[0]}"}) for name in PICTURES}
    page = vote_page(answer_key(sample_pairs(TABLE, 1), ASKED, told), ASKED, told)
    plain = {name: png() for name in PICTURES}
    assert re.findall('data:image/[^"]+', page) == re.findall(
        'data:image/[^"]+', vote_page(answer_key(sample_pairs(TABLE, 1), ASKED, plain), ASKED, plain)
    )


def test_a_large_picture_is_made_small_enough_to_send_the_page_around():
    from helpers.made_images import png

    large = dict.fromkeys(PICTURES, png(size=(1024, 768)))
    page = vote_page(answer_key(sample_pairs(TABLE, 1), ASKED, large), ASKED, large)
    assert page.count('width="512" height="384"') == 2 * len(CATEGORIES)


def test_without_votes_there_is_no_figure_and_the_notes_say_why(world):
    metrics = vote(world, written(world.reports.parent, HEADER))
    assert "human" not in metrics and "no votes" in world.notes()["human"]
    assert "Human preference" not in (world.reports / "index.html").read_text()


def test_votes_reach_the_metrics_and_the_report(world, tmp_path):
    kept = pd.read_csv(world.reports / "ab_key.csv")
    file = tmp_path / "votes.csv"
    ballot({"a": ["adapter"] * 20, "b": ["adapter"] * 15 + ["baseline"] * 5}, kept).to_csv(file, index=False)
    metrics = vote(world, file)["human"]
    assert metrics["win_rate"]["value"] == 0.875 and metrics["raters"] == 2 and metrics["agreement"] < 1
    page = (world.reports / "index.html").read_text()
    assert "Human preference" in page and "40 votes of 2 raters on 20\nimage pairs" in page
    assert not any(note.startswith("human") for note in world.notes())


def test_two_evaluations_write_the_same_page_and_key(world):
    before = [(world.reports / name).read_bytes() for name in ("ab_vote.html", "ab_key.csv")]
    vote(world, written(world.reports.parent, HEADER))
    assert [(world.reports / name).read_bytes() for name in ("ab_vote.html", "ab_key.csv")] == before


def test_a_picture_drawn_anew_has_another_name(tmp_path):
    world = FinishedRun(tmp_path)
    nobody = written(tmp_path, HEADER)
    vote(world, nobody)
    before = pd.read_csv(world.reports / "ab_key.csv").set_index("id")
    write_arm(world.images, "adapter", PROMPTS, 7)
    vote(world, nobody)
    after = pd.read_csv(world.reports / "ab_key.csv").set_index("id")
    changed = {i for i in before.index if before.pair[i] != after.pair[i]}
    assert changed == {p["id"] for p in PROMPTS if p["id"].endswith("-006")} and before.left.equals(after.left)


def test_a_page_needs_a_pair_of_each_category(tmp_path):
    with pytest.raises(ValueError, match="evaluate.num_vote_pairs is 0"):
        evaluate(*[tmp_path] * 6, evaluate=SETTINGS | {"num_vote_pairs": 0})


def test_votes_are_read_before_the_long_look_at_the_pictures(tmp_path):
    files = FinishedRun(tmp_path)
    with pytest.raises(ValueError, match="is not a vote"):
        vote(files, written(tmp_path, HEADER, "nonsense"))
    assert not (files.reports / "metrics.json").exists()


def test_a_name_with_a_comma_in_quotes_is_one_cell(tmp_path):
    file = tmp_path / "votes.csv"
    with file.open("w", newline="") as out:
        csv.writer(out).writerows([COLUMNS, ["p1", "Ann, B", "left"]])
    assert read_votes(file).rater.tolist() == ["Ann, B"]
