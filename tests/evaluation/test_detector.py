"""What a detector finds is counted, and its colour named, as the prompt lists it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.repository import ROOT
from PIL import Image
from transformers import (
    AutoTokenizer,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Owlv2Config,
    Owlv2ForObjectDetection,
    SwinConfig,
)

from miniature.scenes import Scene, Thing
from sur_adapter.evaluation.judges import detector
from sur_adapter.evaluation.judges.detector import Detection, classify_color, matches, suppress_duplicates
from sur_adapter.models.clip import CLIPEncoder

CLIP = str(ROOT / "models/miniature/clip")
SCENE = Scene(0, "color", (Thing("circle", "red", None, 16, 32, 10), Thing("circle", "blue", None, 46, 32, 10)))


def thing(name: str, x: float = 0, score: float = 0.95, size: float = 10) -> Detection:
    return Detection(name, score, (x, 0, x + size, size))


def shown(things: list[Detection], include: list[dict], exclude=(), colours: dict | None = None) -> bool:
    return matches(things, {"include": include, "exclude": list(exclude)}, lambda t: (colours or {})[t.box[0]])


def test_at_least_so_many_are_wanted_and_the_excluded_number_is_too_many():
    three = [{"class": "apple", "count": 3}]
    four = [{"class": "apple", "count": 4}]
    found = [[thing("apple", 20 * k) for k in range(n)] for n in range(6)]
    assert [shown(things, three) for things in found] == [False, False, False, True, True, True]
    assert [shown(things, three, four) for things in found] == [False, False, False, True, False, False]


def test_every_class_that_is_listed_is_wanted():
    both = [{"class": "apple", "count": 1}, {"class": "pear", "count": 1}]
    assert shown([thing("apple"), thing("pear", 20)], both) and not shown([thing("apple"), thing("apple", 20)], both)


def test_the_colour_must_be_that_of_so_many_of_the_class():
    things = [thing("apple", 0), thing("apple", 20), thing("pear", 40)]
    colours = {0: "red", 20: "green", 40: "red"}
    one, two = ([{"class": "apple", "count": n, "color": "red"}] for n in (1, 2))
    assert shown(things, one, colours=colours) and not shown(things, two, colours=colours)
    swapped = [{"class": "apple", "count": 1, "color": "green"}, {"class": "pear", "count": 1, "color": "green"}]
    assert not shown(things, swapped, colours=colours)


def test_one_thing_that_is_found_twice_counts_once_and_neighbours_count_twice():
    twice = [thing("apple", 0, 0.6), thing("apple", 1, 0.9), thing("pear", 0, 0.5), thing("apple", 8, 0.7)]
    assert sorted((t.name, t.score) for t in suppress_duplicates(twice, 0.5)) == [("apple", 0.7), ("apple", 0.9), ("pear", 0.5)]
    assert suppress_duplicates([], 0.5) == []


def test_the_colour_of_a_thing_is_that_inside_its_box():
    picture, clip = SCENE.draw(), CLIPEncoder(CLIP, "evaluate.clip")
    boxes = {"red": (6, 22, 26, 42), "blue": (36, 22, 56, 42)}
    assert {name: classify_color(clip, picture, Detection("circle", 1.0, box)) for name, box in boxes.items()} == {
        name: name for name in boxes
    }


def test_what_lies_around_a_masked_thing_does_not_colour_it():
    clip, mask = CLIPEncoder(CLIP, "evaluate.clip"), np.zeros((64, 64), bool)
    mask[24:44, 24:44] = True
    seen: dict[str, set] = {"bare": set(), "masked": set()}
    for around in ("blue", "green", "white"):
        picture = Image.new("RGB", (64, 64), around)
        picture.paste("red", (24, 24, 44, 44))
        for kind, drawn in (("bare", None), ("masked", mask)):
            seen[kind].add(classify_color(clip, picture, Detection("square", 1.0, (0, 0, 64, 64), drawn)))
    assert len(seen["masked"]) == 1 and len(seen["bare"]) == 3


def worded(folder: Path) -> str:
    """An OWLv2, tiny and untrained."""
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(CLIP)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = tower | {"vocab_size": len(words), "max_position_embeddings": words.model_max_length, "eos_token_id": words.eos_token_id}
    text |= {"bos_token_id": words.bos_token_id, "pad_token_id": words.pad_token_id}
    config = Owlv2Config(text_config=text, vision_config=tower | {"image_size": 64, "patch_size": 16}, projection_dim=32)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    look = transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    transformers.Owlv2Processor(look, words).save_pretrained(folder)
    return str(folder)


def masked(folder: Path, labels: int = 3) -> str:
    """A Mask2Former of so many classes, tiny and untrained."""
    torch.manual_seed(0)
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=2, out_features=[f"stage{k}" for k in range(1, 5)]
    )
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 32, "dim_feedforward": 32}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 6}
    config = Mask2FormerConfig(backbone_config=swin, num_labels=labels, **sizes, **layers)
    config.id2label = {k: f"thing {k}" for k in range(labels)}
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    transformers.Mask2FormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return str(folder)


def prompt(name: str, category: str = "color", **more) -> dict:
    return {"id": "a-1", "category": category, "prompt": "a", "include": [{"class": name, "count": 1} | more]}


@pytest.mark.parametrize(("build", "name"), [(worded, "circle"), (masked, "thing 1")])
def test_each_kind_of_detector_finds_things_inside_the_picture(build, name, tmp_path):
    picture = SCENE.draw().resize((90, 60))
    find = detector.load(build(tmp_path / "model"))
    found = find(picture, [name], 0.0)
    assert found and all(t.name == name and 0 <= t.score <= 1 for t in found)
    assert all(t.mask is None or (t.mask.shape == (60, 90) and t.box[2] <= 90 and t.box[3] <= 60) for t in found)


def test_a_thing_counts_above_the_threshold_and_in_counting_above_a_higher_one(tmp_path):
    model, picture = worded(tmp_path / "model"), SCENE.draw()
    best = max(t.score for t in detector.load(model)(picture, ["circle"], 0.0))
    config = detector.Config(model, CLIP, threshold=best - 0.01, counting_threshold=best + 0.01)
    prompts = [prompt("circle"), prompt("circle", "counting")]
    assert detector.verdicts([picture] * 2, prompts, config) == [True, False]
    assert detector.verdicts([picture], prompts[:1], replace(config, threshold=best + 0.01)) == [False]


def test_published_models_of_coco_are_asked_in_genevals_words(tmp_path):
    find = detector.load(masked(tmp_path / "model", 80))
    assert (
        find.label_ids["tv remote"] == find.label_ids["thing 65"] == 65
        and len(detector.COCO_CLASSES) == len(set(detector.COCO_CLASSES)) == 80
    )
    assert all(t.name == "person" for t in find(SCENE.draw(), ["person"], 0.0))


def test_what_cannot_be_asked_gets_a_sentence(tmp_path, models):
    model, picture = masked(tmp_path / "model"), SCENE.draw()
    with pytest.raises(ValueError, match=r"has no class 'thing 9' \(did you mean 'thing [012]'\?\): name an OWLv2"):
        detector.verdicts([picture], [prompt("thing 9")], detector.Config(model))
    with pytest.raises(ValueError, match="'a-1' has no `include`"):
        detector.verdicts([picture], [{"id": "a-1", "category": "color", "prompt": "a"}], detector.Config(model))
    with pytest.raises(ValueError, match="asks for 'mauve': `detector` knows red, orange"):
        detector.verdicts([picture], [prompt("thing 1", color="mauve")], detector.Config(model))
    with pytest.raises(ValueError, match="of the kind clip: name an OWLv2 or a Mask2Former"):
        detector.load(str(models / "clip"))
    with pytest.raises(FileNotFoundError, match="evaluate.judge.detector.model is 'models/none'"):
        detector.load("models/none")
