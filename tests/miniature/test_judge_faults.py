"""The judge refuses pictures with one visible fault, and not good ones."""

import pytest

from miniature import judge
from miniature.faulty_pictures import NOT_SEEN, REFUSED, pictures
from miniature.scenes import make
from sur_adapter.evaluation.judges.pictograms import Config

EACH = 30  # 390 pictures with a fault


@pytest.mark.parametrize("kind", REFUSED)
def test_a_picture_with_a_fault_is_refused(kind):
    shown = list(pictures(REFUSED[kind], EACH))
    assert len(shown) == EACH and sum(judge.shows(image, include) for image, include in shown) == 0


@pytest.mark.parametrize("kind", NOT_SEEN)
def test_what_cannot_be_told_from_noise_passes(kind):
    """If one of these fails, the judge has become stricter: move the kind to REFUSED."""
    assert sum(judge.shows(image, include) for image, include in pictures(NOT_SEEN[kind], EACH)) > EACH / 2


@pytest.mark.parametrize("strictness", judge.STRICTNESS)
def test_no_strictness_refuses_a_clean_picture(strictness):
    scenes = [make(seed) for seed in range(300)]
    assert [s.seed for s in scenes if not judge.shows(s.draw(), s.include, strictness)] == []


def test_a_stricter_judge_refuses_more():
    some = [
        item
        for kind in ("a blot of 10 % on a thing", "hexagons for circles", "a dot of 2 × 2 pixels")
        for item in pictures(REFUSED[kind], 10)
    ]
    passed = [sum(judge.shows(image, include, strictness) for image, include in some) for strictness in ("loose", "default", "strict")]
    assert passed[0] > 15 and passed[1:] == [0, 0]


def test_the_strictness_is_a_setting_of_the_judge():
    assert Config().strictness == "default"
    with pytest.raises(ValueError, match="strictness is 'hard': choose loose, default, strict"):
        Config("hard")
