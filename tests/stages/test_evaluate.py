"""Metrics of a finished run with known correct and incorrect images are exact."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.finished_run import CLIP, EACH, PROMPTS, RIGHT, SEEDS, SETTINGS, FinishedRun, incorrect_image, write_arm
from helpers.small_models import encode
from helpers.stages import evaluate
from PIL import Image, ImageFilter

from miniature.scenes import CATEGORIES, make
from sur_adapter.evaluation.image_quality import IMAGE_STATISTICS, colourfulness, contrast, entropy, sharpness
from sur_adapter.generation.image_grid import GAP, SIDE, image_grid
from sur_adapter.io.shards import write_tar
from sur_adapter.models.clip import CLIPEncoder, cosine_scores, mean_pairwise_distances
from sur_adapter.reporting.sample_images import same_seed_grid


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    finished = FinishedRun(tmp_path_factory.mktemp("run"))
    finished.metrics = finished.run()
    return finished


def leaves(tree, prefix=""):
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]


def test_accuracy_is_the_share_of_correct_images(finished):
    for category in (*CATEGORIES, "overall"):
        for arm, correct in RIGHT.items():
            cell = finished.metrics["semantic"][category][arm]
            assert cell["value"] == pytest.approx(correct / EACH), (category, arm)
            assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
            assert cell["low"] < cell["high"]


def test_the_gap_closed_is_the_gain_over_the_gap(finished):
    gap = finished.metrics["semantic"]["gap_closed"]
    assert gap["value"] == pytest.approx((6 - 2) / (8 - 2), abs=1e-4)
    assert 0 < gap["low"] < gap["value"] < gap["high"] < 1
    assert all(gap[category]["value"] == gap["value"] for category in CATEGORIES)


def test_the_effect_on_keyword_prompts_is_measured(finished):
    change = finished.metrics["semantic"]["on_complex"]
    assert change["value"] == pytest.approx(-1 / EACH) and (change["win"], change["tie"], change["loss"]) == (0, 21, 3)
    assert change["low"] < change["value"] < change["high"] <= 0
    assert "on_complex" not in {c.split(",")[0] for c in pd.read_csv(finished.reports / "plots/accuracy.csv").category}


def test_accuracy_by_strength_is_sorted_by_strength(finished, tmp_path):
    finished = FinishedRun(tmp_path)
    for eta, correct in {"0": 2, "1.5": 4, "0.25": 8}.items():
        write_arm(finished.images.parent / "sweep", eta, PROMPTS, correct, seeds=1)
        (tmp_path / "sweep" / eta / "prompts.parquet").unlink()
    numbers = finished.run(sweep=tmp_path / "sweep")
    assert {eta: at["value"] for eta, at in numbers["strength"].items()} == {"0": 0.25, "0.25": 1.0, "1.5": 0.5}
    assert all(at["low"] < at["value"] <= at["high"] for at in numbers["strength"].values())
    assert pd.read_csv(finished.reports / "plots/strength.csv").strength.tolist() == [0.0, 0.25, 1.5]
    assert "Accuracy by adapter scale: 25% at 0, 50% at 1.5" in (finished.reports / "index.html").read_text()
    assert "strength" not in finished.run() and "sweep.strengths" in finished.notes()["strength"]
    assert "judge is null" in (finished.run(sweep=tmp_path / "sweep", judge=None) and finished.notes()["strength"])


@pytest.mark.parametrize("folder, message", [("strong", "is not named by a strength"), ("1", "holds an image of 'unknown'")])
def test_a_sweep_with_other_folders_or_prompts_gives_a_clear_error(folder, message, tmp_path):
    finished = FinishedRun(tmp_path)
    write_tar(tmp_path / "sweep" / folder / "images-000000.tar", [("unknown-0", "png", incorrect_image(PROMPTS[0], 0))])
    with pytest.raises(ValueError, match=message):
        finished.run(sweep=tmp_path / "sweep")


def test_the_difference_has_an_interval_a_p_value_and_wins(finished):
    difference = finished.metrics["semantic"]["difference"]
    assert difference["value"] == 0.5 and (difference["win"], difference["tie"], difference["loss"]) == (12, 12, 0)
    assert 0.25 < difference["low"] < 0.5 < difference["high"] < 0.75 and difference["p"] < 0.01
    assert all(difference["p"] < difference[c]["p"] <= difference[c]["p_holm"] for c in CATEGORIES)


def test_metrics_hold_only_finite_numbers(finished):
    for key, value in leaves(finished.metrics):
        assert isinstance(value, (int, float)) and value == value and abs(value) < 1e9, key


def test_every_documented_metric_is_present(finished):
    keys = dict(leaves(finished.metrics))
    for arm in RIGHT:
        assert 0 <= keys[f"clip_score.{arm}"] <= 100 and keys[f"diversity.{arm}"] >= 0
        assert all(keys[f"quality.{measure}.{arm}"] > 0 for measure in IMAGE_STATISTICS)
    assert keys["quality.regressed"] in (0, 1)
    counts = {"prompts": 24, "seeds": 2, "pictures": 2 * 24 * len(RIGHT)} | dict.fromkeys(CATEGORIES, EACH)
    assert finished.metrics["counts"] == counts


def test_correct_images_have_a_higher_clip_score_than_incorrect_ones(finished):
    judged = pd.read_parquet(finished.reports / "judgements.parquet")
    assert judged[judged.shown == 1].clip_score.mean() > judged[judged.shown == 0].clip_score.mean() + 10
    assert finished.metrics["clip_score"]["complex"] > finished.metrics["clip_score"]["baseline"]


def test_equal_images_of_all_seeds_have_zero_diversity(finished):
    assert finished.metrics["diversity"]["complex"] == 0 < finished.metrics["diversity"]["baseline"]


def test_two_runs_write_the_same_bytes(finished, tmp_path):
    before = finished.files()
    finished.run()
    assert finished.files() == before
    assert {"metrics.json", "notes.json", "judgements.parquet", "index.html", "plots/accuracy.csv", "plots/arms.csv"} <= set(before)


def test_keys_are_sorted(finished):
    text = (finished.reports / "metrics.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


def test_the_printed_table_has_every_arm_and_the_gap(finished, capsys):
    finished.run()
    out = capsys.readouterr().out
    assert all(word in out for word in (*RIGHT, *CATEGORIES, "overall", "gap closed 0.667 ["))


def test_without_a_judge_accuracy_is_left_out_with_a_note(tmp_path):
    finished = FinishedRun(tmp_path)
    metrics = finished.run(judge=None)
    assert "semantic" not in metrics and "clip_score" in metrics and "judge is null" in finished.notes()["semantic"]
    assert "gap" in (finished.reports / "index.html").read_text()


def test_without_clip_its_metrics_are_left_out_with_a_note(tmp_path):
    finished = FinishedRun(tmp_path)
    metrics = finished.run(clip=None)
    assert not {"clip_score", "diversity"} & set(metrics) and {"clip_score", "diversity"} <= set(finished.notes())


def test_one_seed_has_no_diversity_but_a_note(tmp_path):
    finished = FinishedRun(tmp_path, seeds=1)
    assert "diversity" not in finished.run() and "two seeds" in finished.notes()["diversity"]


def test_if_keyword_prompts_are_not_better_the_gap_is_left_out(tmp_path):
    finished = FinishedRun(tmp_path, right=RIGHT | {"complex": 2})
    metrics = finished.run(clip=None)
    assert metrics["semantic"]["gap_closed"] == {} or "value" not in metrics["semantic"]["gap_closed"]
    assert "no gap to close" in finished.notes()["semantic.gap_closed"]


def test_prompts_without_a_keyword_prompt_do_not_count_in_the_gap(tmp_path):
    rows = [p | ({"complex_prompt": None} if i % EACH == 7 else {}) for i, p in enumerate(PROMPTS)]
    finished = FinishedRun(tmp_path, rows=[p | {"complex_prompt": p["complex_prompt"] or p["prompt"]} for p in rows])
    (finished.prompts / "all.jsonl").write_text("".join(json.dumps(p) + "\n" for p in rows))
    gap = finished.run(clip=None)["semantic"]["gap_closed"]  # of 7 prompts per category, 2, 6 and 7 are correct
    assert gap["value"] == pytest.approx((6 - 2) / (7 - 2))


def test_an_optional_arm_can_be_missing(tmp_path):
    finished = FinishedRun(tmp_path, right={"baseline": 2, "adapter": 6})
    metrics = finished.run(clip=None)
    assert set(metrics["semantic"]["overall"]) == {"baseline", "adapter"}
    assert "complex" in finished.notes()["semantic.gap_closed"]


def test_images_of_different_seeds_are_not_compared(tmp_path):
    finished = FinishedRun(tmp_path)
    write_arm(finished.images, "adapter", PROMPTS, 8, seeds=1)
    with pytest.raises(ValueError, match="different images.*use the same prompts"):
        finished.run(clip=None)


def test_an_image_of_an_unknown_prompt_is_named(tmp_path):
    finished = FinishedRun(tmp_path)
    (finished.prompts / "all.jsonl").write_text(json.dumps(PROMPTS[0]) + "\n")
    with pytest.raises(ValueError, match="'action-001', which is not in the prompt list"):
        finished.run(clip=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"juge": "pictograms"}, "evaluate.juge is unknown.*'judge'"),
        ({"judge": "pictogram"}, "has no 'pictogram'.*'pictograms'"),
        ({"bootstrap_resamples": 3}, "evaluate.bootstrap_resamples is 3"),
        ({"clip": "models/none"}, "evaluate.clip is 'models/none', where no model"),
    ],
)
def test_wrong_settings_give_clear_errors(tmp_path, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate(*[tmp_path] * 6, evaluate=SETTINGS | changes)


def test_a_missing_arm_and_a_truncated_tar_give_clear_errors(tmp_path):
    finished = FinishedRun(tmp_path)
    tar = finished.images / "adapter" / "images-000000.tar"
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(ValueError, match="cut short"):
        finished.run(clip=None)
    for file in (tar, tar.with_name("prompts.parquet")):
        file.unlink()
    tar.parent.rmdir()
    with pytest.raises(FileNotFoundError, match="adapter is missing"):
        finished.run(clip=None)


def test_a_large_image_is_shown_as_a_thumbnail(tmp_path):
    finished = FinishedRun(tmp_path, rows=PROMPTS[:1])
    for arm in RIGHT:
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 384, 3), dtype=np.uint8))
        write_tar(finished.images / arm / "images-000000.tar", [(f"{PROMPTS[0]['id']}-{k}", "png", encode(noise)) for k in range(SEEDS)])
    metrics = finished.run(clip=None)
    assert metrics["semantic"]["overall"]["adapter"]["value"] == 0
    page = (finished.reports / "index.html").read_text()
    assert 'width="192" height="256"' in page and len(page) < 1_500_000


def test_image_statistics_of_known_images_are_exact():
    flat = Image.new("RGB", (32, 32), (90, 90, 90))
    assert [measure(flat) for measure in (sharpness, contrast, colourfulness)] == pytest.approx([0, 0, 0], abs=1e-9)
    board = Image.fromarray((np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert contrast(board) == pytest.approx(0.5) and colourfulness(board) == pytest.approx(0, abs=1e-9)
    assert entropy(flat) == 0 and entropy(board) == pytest.approx(1)
    assert entropy(Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))) == pytest.approx(8)
    assert colourfulness(Image.new("RGB", (8, 8), (255, 0, 0))) == pytest.approx(0.3 * np.hypot(1, 0.5))


def test_blur_lowers_sharpness_and_grey_has_no_colourfulness():
    scene = make(4).draw()
    blurred = scene.filter(ImageFilter.GaussianBlur(2))
    assert sharpness(blurred) < 0.5 * sharpness(scene) and colourfulness(scene.convert("L")) == pytest.approx(0, abs=1e-9)


def test_a_loss_of_quality_is_in_metrics_and_report(tmp_path):
    finished = FinishedRun(tmp_path)
    members = [(f"{p['id']}-{k}", "png", encode(make(k).draw().filter(ImageFilter.GaussianBlur(3)))) for p in PROMPTS for k in range(SEEDS)]
    write_tar(finished.images / "adapter" / "images-000000.tar", members)
    quality = finished.run(clip=None)["quality"]
    assert quality["regressed"] == quality["sharpness"]["regressed"] == 1
    head = (finished.reports / "index.html").read_text().split("</header>")[0]
    assert "sharpness" in head.split("Worse with the adapter:</b>")[1]


def test_the_image_grid_shows_the_random_samples_without_and_with_the_adapter(tmp_path):
    finished = FinishedRun(tmp_path)
    finished.run(clip=None)
    grid = Image.open(finished.reports / "same_seed.png").convert("RGB")
    one = image_grid([("a red circle", [Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")])], ["without", "with"])
    assert [one.getpixel((one.width - SIDE // 2, y)) for y in (one.height - SIDE - SIDE // 2 - 2 * GAP, one.height - SIDE // 2)] == [
        (255, 0, 0),
        (0, 0, 255),
    ]
    assert grid.width == one.width + (2 * len(CATEGORIES) - 1) * (SIDE + GAP), "two prompts per category"


def test_the_image_without_the_adapter_is_above_the_one_with_it():
    colors = {"baseline": "red", "adapter": "blue"}
    images = {(arm, "a", 0): encode(Image.new("RGB", (8, 8), color)) for arm, color in colors.items()}
    grid = same_seed_grid([("a", 0)], {"a": {"prompt": "a red circle"}}, images)
    x, y = grid.width - GAP - SIDE // 2, grid.height - GAP - SIDE // 2
    assert grid.getpixel((x, y - SIDE - GAP)) == (255, 0, 0) and grid.getpixel((x, y)) == (0, 0, 255)


def test_the_clip_score_is_the_cosine_and_never_negative():
    a = np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]])
    assert cosine_scores(a, np.array([[1.0, 0.0]] * 3)) == pytest.approx([1.0, 0.6, 0])


def test_mean_distances_average_to_the_mean_over_all_pairs():
    x = np.random.default_rng(0).normal(size=(5, 8))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    pairs = [1 - x[i] @ x[j] for i in range(5) for j in range(i)]
    assert mean_pairwise_distances(x).mean() == pytest.approx(np.mean(pairs)) and np.isnan(mean_pairwise_distances(x[:1])).all()


def test_a_long_prompt_is_truncated_and_batches_change_nothing():
    clip = CLIPEncoder(CLIP, "evaluate.clip")
    texts = ["a red circle", "a red circle and " * 500]
    both = clip.encode_texts(texts)
    assert np.isfinite(both).all() and both[:1] == pytest.approx(clip.encode_texts(texts[:1]), abs=1e-5)
    assert np.linalg.norm(both, axis=-1) == pytest.approx(1, abs=1e-5)


def test_a_category_cannot_have_the_name_of_a_key(tmp_path):
    finished = FinishedRun(tmp_path)
    (finished.prompts / "all.jsonl").write_text("".join(json.dumps(p | {"category": "overall"}) + "\n" for p in PROMPTS))
    with pytest.raises(ValueError, match="category 'overall'"):
        finished.run(clip=None)
