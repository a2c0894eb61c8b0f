"""Quality regressions and configured metrics, on tables of known numbers."""

import json

import numpy as np
import pandas as pd
import pytest
from helpers.finished_run import CLIP, PROMPTS, RIGHT, FinishedRun
from helpers.small_models import encode
from helpers.stages import evaluate
from helpers.training_setup import adapter
from PIL import Image
from test_vqa import ATOM, tiny_blip_vqa

from sur_adapter.evaluation import image_quality
from sur_adapter.evaluation.summary import summarize
from sur_adapter.features.store import write_features
from sur_adapter.io.shards import write_tar

METRICS = {"pickscore": {"model": CLIP, "processor": CLIP}, "clip_iqa": {"model": CLIP}}


def table(adapter: float, spread: float = 0.05, prompts: int = 60, **columns) -> pd.DataFrame:
    """Sharpness is 1 in the baseline and `adapter` with the adapter, give or take; two seeds."""
    rng, rows = np.random.default_rng(0), []
    for arm, level in (("baseline", 1.0), ("adapter", adapter)):
        for i in range(prompts):
            for k in (0, 1):
                one = {"id": f"p{i}", "category": "color", "arm": arm, "seed": k, "sharpness": level + rng.normal(0, spread)}
                missing = dict.fromkeys(("shown", "soft", "clip_score", "distance"), np.nan)
                rows.append(one | missing | dict.fromkeys(("contrast", "colourfulness", "entropy"), 1.0))
    return pd.DataFrame(rows).assign(**columns)


def regressed(*args, tolerance: float, **more) -> int:
    numbers, _ = summarize(table(*args, **more), set(), 1000, tolerance=tolerance)
    result = numbers["quality"]
    assert result["regressed"] == result["sharpness"]["regressed"] and result["contrast"]["regressed"] == 0
    return result["regressed"]


def test_only_a_loss_beyond_the_tolerance_is_a_regression():
    assert regressed(0.9, tolerance=0.05) == 1
    assert regressed(0.9, tolerance=0.15) == 0


def test_the_whole_interval_must_lie_below_the_tolerance():
    assert regressed(0.93, tolerance=0.05, spread=0.01) == 1
    assert regressed(0.93, tolerance=0.05, spread=0.5) == 0


def test_a_gain_is_no_regression_whatever_the_tolerance():
    assert regressed(1.2, tolerance=0.0) == 0


def test_a_negative_metric_regresses_downwards_too():
    beyond, within = (table(1.0, sharpness=lambda t, level=level: np.where(t.arm == "adapter", level, -10.0)) for level in (-12.0, -10.2))
    assert [summarize(t, set(), 200, tolerance=0.05)[0]["quality"]["regressed"] for t in (beyond, within)] == [1, 0]


def test_the_difference_has_an_interval():
    result = summarize(table(0.9), set(), 1000)[0]["quality"]["sharpness"]
    assert result["difference"]["low"] < result["difference"]["value"] < result["difference"]["high"] < 0
    assert result["difference"]["value"] == pytest.approx(result["adapter"] - result["baseline"], abs=2e-4)


def test_the_win_rate_compares_images_of_one_prompt_and_seed():
    wins = table(1.0)
    wins["pickscore"] = np.where(wins.arm == "adapter", 1.0, 0.0) + 100 * wins.id.str[1:].astype(int)  # prompts differ more than arms
    lost = (wins.arm == "adapter") & (wins.seed == 1) & (wins.id == "p0")
    tied = (wins.arm == "adapter") & (wins.id == "p1")
    wins.loc[lost, "pickscore"] -= 2
    wins.loc[tied, "pickscore"] -= 1
    result = summarize(wins, set(), 1000, metrics=["pickscore"])[0]["quality"]["pickscore"]["win_rate"]
    assert result["value"] == pytest.approx((58 + 0.5 + 0.5) / 60, abs=1e-4) and result["low"] < result["value"] <= result["high"] <= 1


def test_a_metric_that_follows_the_judge_agrees_with_it():
    shown = np.tile([0.0, 1.0, 1.0, 0.0], 60)
    judged = table(1.0, shown=shown, clip_score=70 + 10 * shown)
    result = summarize(judged, set(), 200)[0]["agreement"]
    assert result["clip_score"] == 1 and abs(result["sharpness"]) < 0.3 and "contrast" not in result, "contrast is constant"


def test_configured_metrics_are_in_the_metrics_and_in_the_table(tmp_path):
    finished = FinishedRun(tmp_path)
    without = finished.run()
    metrics, judged = finished.run(metrics=METRICS), pd.read_parquet(finished.reports / "judgements.parquet")
    for name in METRICS:
        assert metrics["quality"][name]["adapter"] == pytest.approx(judged[judged.arm == "adapter"][name].mean(), rel=1e-4)
    assert metrics["quality"]["pickscore"]["win_rate"]["value"] > 0.5, "more images are correct with the adapter"
    for name in ("semantic", "clip_score", "diversity", "counts"):
        assert metrics[name] == without[name]


def test_a_new_metric_does_not_repeat_old_measurements(tmp_path, monkeypatch):
    measured, statistics = [], image_quality.image_statistics
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(image_quality, "image_statistics", lambda images: measured.extend(images) or statistics(images))
    finished = FinishedRun(tmp_path / "run")
    before = finished.run(), len(measured)
    after = finished.run(metrics=METRICS), len(measured)
    assert 0 < before[1] == after[1] and before[0]["quality"]["sharpness"] == after[0]["quality"]["sharpness"]


def test_a_regenerated_arm_is_the_only_one_measured_again(tmp_path, monkeypatch):
    measured, statistics = [], image_quality.image_statistics
    monkeypatch.setenv("SUR_WORK", str(tmp_path / "work"))
    monkeypatch.setattr(image_quality, "image_statistics", lambda images: measured.extend(images) or statistics(images))
    finished = FinishedRun(tmp_path / "run")
    finished.run(clip=None)
    measured.clear()
    grey = [(f"{p['id']}-{k}", "png", encode(Image.new("RGB", (64, 64), (i, 90, 10 * k)))) for i, p in enumerate(PROMPTS) for k in (0, 1)]
    write_tar(finished.images / "adapter" / "images-000000.tar", grey)
    finished.run(clip=None)
    assert len(measured) == len(grey)


def test_a_judge_with_probabilities_gives_soft_accuracy(tmp_path):
    model = tiny_blip_vqa(tmp_path / "blip")
    finished = FinishedRun(tmp_path / "run", rows=[p | {"atoms": [ATOM, ATOM | {"a": "blue"}]} for p in PROMPTS])
    metrics = finished.run(judge={"vqa": {"model": model}}, clip=None)
    judged = pd.read_parquet(finished.reports / "judgements.parquet")
    assert metrics["semantic"]["overall"]["adapter"]["value"] == 0, "no image is red and blue"
    assert metrics["soft"]["adapter"] == pytest.approx(0.5, abs=1e-4) and judged.soft.between(0, 1).all()
    assert {"value", "low", "high", "p"} <= metrics["soft"]["difference"].keys()
    for name, rows in judged[judged.arm == "adapter"].groupby("category"):
        assert metrics["soft"][name]["adapter"] == pytest.approx(rows.soft.mean(), abs=1e-4)


def test_an_arm_is_not_worse_if_its_whole_interval_is_above_the_margin():
    shares = {"baseline": 0.5, "adapter": 0.9, "complex": 0.9, "complex_adapter": 0.6}
    rows = [
        {"id": f"p{i}", "category": "color", "arm": arm, "seed": 0, "shown": float(i < 100 * share), "sharpness": 1.0}
        | dict.fromkeys(("soft", "clip_score", "distance"), np.nan)
        | dict.fromkeys(("contrast", "colourfulness", "entropy"), 1.0)
        for arm, share in shares.items()
        for i in range(100)
    ]
    names = {f"p{i}" for i in range(100)}
    semantic = {margin: summarize(pd.DataFrame(rows), names, 1000, margin=margin)[0]["semantic"] for margin in (0.03, 0.5)}
    as_good, harm = semantic[0.03]["against_complex"], semantic[0.03]["on_complex"]
    assert (as_good["value"], as_good["not_worse"], as_good["margin"]) == (0.0, 1, 0.03)
    assert harm["value"] == pytest.approx(-0.3) and harm["high"] < -0.03 and harm["not_worse"] == 0
    assert semantic[0.5]["on_complex"]["not_worse"] == 1
    assert "against_complex" not in summarize(pd.DataFrame(rows), set(), 1000)[0]["semantic"], "no prompt has a keyword prompt"
    few = pd.DataFrame([row for row in rows if int(row["id"][1:]) < 20])
    equal = summarize(few, names, 1000, margin=0.03)[0]["semantic"]["against_complex"]
    assert equal["value"] == 0 and equal["low"] < -0.03 and equal["not_worse"] == 0, "so few prompts cannot show it"


@pytest.mark.parametrize("name", ["overall", "on_complex", "against_complex", "adapter", "pictures"])
def test_a_category_cannot_be_named_like_a_key_of_the_metrics(name):
    with pytest.raises(ValueError, match=f"have a category '{name}', which is a key of its own in metrics.json"):
        summarize(table(1.0).assign(category=name), set())


def test_sets_too_small_to_compare_are_left_out_with_a_note(tmp_path):
    finished = FinishedRun(tmp_path)
    metrics = finished.run(metrics=["cmmd"])
    assert "distance" not in metrics and "needs 500 images per arm, and there are 48" in finished.notes()["distance.cmmd"]
    assert "needs 500 images" in (finished.reports / "index.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["pickscor"]}, "metrics has no 'pickscor'.*'pickscore'"),
        ({"metrics": {"pickscore": {"modle": "a"}}}, "evaluate.metrics.pickscore.modle is unknown.*'model'"),
        ({"metrics": {"cmmd": {"model": "a"}}}, "evaluate.metrics.cmmd.model is unknown"),
        ({"judge": {"vqa": {"modle": "a"}}}, "evaluate.judge.vqa.modle is unknown.*'model'"),
        ({"judge": {"vqa": None, "detector": None}}, "evaluate.judge names vqa and detector: choose one"),
        ({"tolerance": 5}, "evaluate.tolerance is 5"),
        ({"tolerance": "much"}, "evaluate.tolerance is 'much'"),
        ({"margin": 0}, "evaluate.margin is 0"),
    ],
)
def test_wrong_plug_ins_and_settings_give_clear_errors(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*[tmp_path] * 6, evaluate={"judge": None} | changes)


def test_a_judge_without_settings_uses_its_defaults(tmp_path):
    finished = FinishedRun(tmp_path)
    assert finished.run(judge={"pictograms": None}, clip=None) == finished.run(judge="pictograms", clip=None)
    assert set(json.loads((finished.reports / "metrics.json").read_text())["semantic"]["overall"]) == set(RIGHT)


def test_embedding_distances_of_cached_features_are_in_the_metrics(tmp_path):
    finished = FinishedRun(tmp_path / "run")
    adapter(trained=True).save_pretrained(finished.adapter)
    embeds = {
        name: np.random.default_rng(seed).standard_normal((5, 9, 32)).astype("float16") for seed, name in enumerate(("simple", "complex"))
    }
    write_features(tmp_path / "clip/test-000000.parquet", list("abcde"), embeds)
    r, out = finished.reports, finished.reports / "metrics.json"
    files = finished.prompts, finished.images, r / "funnel.json", r / "train", finished.adapter, r
    evaluate(*files, tmp_path / "clip", evaluate={"judge": "pictograms"})
    result = json.loads(out.read_text())["embedding"]
    assert result["pairs"] == 5 and result["mse"]["adapter"] != result["mse"]["baseline"] > 1 and "embedding" not in finished.notes()
    finished.run(clip=None)
    assert "embedding" not in json.loads(out.read_text()) and "no cached features" in finished.notes()["embedding"]
