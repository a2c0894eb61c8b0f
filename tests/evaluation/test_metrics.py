"""Known images and known sets give known values of the metrics."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.repository import ROOT
from scipy.linalg import sqrtm

from miniature.scenes import Scene, Thing
from sur_adapter.evaluation.evaluator import compare_sets
from sur_adapter.evaluation.metrics import clip_iqa, cmmd, fid_clip, iqa, pickscore
from sur_adapter.models.clip import CLIPEncoder

CLIP = str(ROOT / "models/miniature/clip")
RED, BLUE = (Scene(0, "color", (Thing("circle", colour, None, 32, 32, 14),)).draw() for colour in ("red", "blue"))
RNG = np.random.default_rng(3)


def cloud(n: int, d: int = 6, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return RNG.normal(size=(n, d)) * scale + shift / d**0.5


def test_clip_iqa_prefers_the_text_that_the_image_shows():
    red = clip_iqa.measure([RED, BLUE], [{}, {}], clip_iqa.Config(CLIP, "a red circle", "a blue circle"))
    blue = clip_iqa.measure([RED, BLUE], [{}, {}], clip_iqa.Config(CLIP, "a blue circle", "a red circle"))
    assert red[0] > 0.9 and red[1] < 0.1 and red + blue == pytest.approx([1, 1])


def test_pickscore_is_the_scaled_cosine_and_prefers_the_matching_image():
    values = pickscore.measure([RED, BLUE], [{"prompt": "a red circle"}] * 2, pickscore.Config(CLIP, CLIP))
    clip = CLIPEncoder(CLIP, "evaluate.clip")
    with torch.inference_mode():
        scale = float(clip.model.logit_scale.exp())
    assert values == pytest.approx(scale * (clip.encode_images([RED, BLUE]) @ clip.encode_texts(["a red circle"])[0]), rel=1e-4)
    assert values[0] > values[1]


def test_each_image_is_scored_with_its_own_prompt():
    prompts = [{"prompt": "a red circle"}, {"prompt": "a blue circle " * 60}]
    both = pickscore.measure([RED, BLUE], prompts, pickscore.Config(CLIP, CLIP))
    alone = [pickscore.measure([i], [p], pickscore.Config(CLIP, CLIP))[0] for i, p in zip((RED, BLUE), prompts, strict=True)]
    assert both == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize(("module", "key"), [(clip_iqa, "clip_iqa.model"), (pickscore, "pickscore.model")])
def test_a_missing_model_is_named(module, key):
    config = pickscore.Config("models/none", CLIP) if module is pickscore else clip_iqa.Config("models/none")
    with pytest.raises(FileNotFoundError, match=f"evaluate.metrics.{key} is 'models/none', where no model"):
        module.measure([RED], [{"prompt": "a"}], config)


def test_a_missing_package_is_named_with_its_licence():
    try:
        import pyiqa  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="needs pyiqa: .*not for commercial use"):
            iqa.measure([RED], [{}], iqa.Config())
    else:
        pytest.skip("pyiqa is installed here")


def test_the_distance_of_a_set_to_itself_is_zero_and_grows_with_a_shift():
    x = cloud(400)
    for module in (cmmd, fid_clip):
        near, far = (module.compare(x, x + shift) for shift in (0.1, 0.5))
        assert module.compare(x, x) == pytest.approx(0, abs=1e-9) and 0 < near < far
        assert module.compare(x, x[::-1] + 0.5) == pytest.approx(far)


def test_cmmd_matches_its_definition():
    x, y = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (cloud(20), cloud(30, shift=1)))

    def mean(a, b):
        return np.mean([np.exp(-(np.linalg.norm(p - q) ** 2) / (2 * 10**2)) for p in a for q in b])

    assert cmmd.compare(x, y) == pytest.approx(1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)), rel=1e-5)


def test_fid_of_gaussians_matches_the_closed_form():
    d, n = 4, 200_000
    assert fid_clip.compare(cloud(n, d), cloud(n, d, shift=3)) == pytest.approx(9, rel=0.02)  # ‖μx − μy‖²
    assert fid_clip.compare(cloud(n, d), cloud(n, d, scale=3)) == pytest.approx(d * (3 - 1) ** 2, rel=0.02)


def test_fid_matches_its_formula_with_fewer_images_than_dimensions():
    x, y = cloud(30, 50), cloud(40, 50, shift=1)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    formula = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert fid_clip.compare(x, y) == pytest.approx(formula, rel=1e-3)


def clouds_by_arm(each: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Embeddings of three arms; the adapter's are distributed as those of keyword prompts, the baseline's are shifted."""
    table = pd.DataFrame({"arm": np.repeat(["baseline", "adapter", "complex"], each)})
    return table, np.concatenate([cloud(each, shift=2), cloud(each), cloud(each)])


def test_an_arm_like_the_keyword_arm_has_a_smaller_distance():
    result, notes = compare_sets(*clouds_by_arm(2000), {"cmmd": cmmd, "fid_clip": fid_clip})
    assert notes == {} and set(result["distance"]) == {"cmmd", "fid_clip"}
    assert all(arms.keys() == {"baseline", "adapter"} and arms["adapter"] < arms["baseline"] / 10 for arms in result["distance"].values())


def test_a_distance_of_too_few_images_is_left_out_with_a_note():
    result, notes = compare_sets(*clouds_by_arm(500), {"cmmd": cmmd, "fid_clip": fid_clip})
    assert set(result["distance"]) == {"cmmd"} and "needs 2000 images per arm, and there are 500" in notes["distance.fid_clip"]
    result, notes = compare_sets(*clouds_by_arm(499), {"cmmd": cmmd})
    assert result == {} and "needs 500" in notes["distance.cmmd"]


def test_without_clip_or_the_arm_complex_distances_are_left_out_with_a_note():
    table, vectors = clouds_by_arm(600)
    for args in ((table, None), (table[table.arm != "complex"], vectors[:1200])):
        result, notes = compare_sets(*args, {"cmmd": cmmd})
        assert result == {} and "it needs evaluate.clip and the arm `complex`" in notes["distance.cmmd"]
