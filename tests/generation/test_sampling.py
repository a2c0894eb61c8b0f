"""Pictures of an arm: named by prompt and seed, on noise that knows neither arm nor batch."""

from io import BytesIO

import numpy as np
import pytest
from helpers.repository import ROOT
from PIL import Image

from sur_adapter.generation.sampling import draw
from sur_adapter.models import stable_diffusion as diffusion

ROWS = [{"id": "a"}, {"id": "b"}, {"id": "c"}]
TEXTS = ["three red circles", "a blue star waves", "two cats"]


@pytest.fixture(scope="module")
def pipe():
    return diffusion.load_pipeline(str(ROOT / "models/miniature/stable-diffusion"))


def pictures(pipe, texts=TEXTS, **options) -> dict[str, np.ndarray]:
    options = {"seeds": 2, "steps": 3, "guidance": 3.0, "batch": 6} | options
    return {key: np.asarray(Image.open(BytesIO(data))).astype(float) for key, _, data in draw(pipe, ROWS, texts, 64, **options)}


def test_every_prompt_has_a_picture_for_each_seed_whatever_the_batch(pipe):
    together, apart = pictures(pipe), pictures(pipe, batch=1)
    assert list(together) == list(apart) == ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]
    for key, picture in together.items():
        assert np.abs(picture - apart[key]).mean() < 0.5
    assert np.abs(together["a-0"] - together["a-1"]).mean() > 5


def test_another_sentence_leaves_the_noise_of_the_others_alone(pipe):
    before, after = pictures(pipe), pictures(pipe, ["four green stars", *TEXTS[1:]])
    assert np.abs(before["a-0"] - after["a-0"]).mean() > 1
    assert np.abs(before["b-0"] - after["b-0"]).mean() < 0.5


def test_bf16_draws_the_same_pictures_but_for_rounding(pipe):
    atomic_write, half = pictures(pipe), pictures(pipe, precision="bf16")
    apart = [np.abs(atomic_write[key] - half[key]).mean() for key in atomic_write]
    assert 0 < max(apart) < 3
    with pytest.raises(ValueError, match="precision is 'fp12': choose fp32 or bf16"):
        pictures(pipe, precision="fp12")
