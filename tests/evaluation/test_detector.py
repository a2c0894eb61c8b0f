"""The detector judge counts objects and classifies their colors as the prompt requires."""

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


def detection(name: str, x: float = 0, score: float = 0.95, size: float = 10) -> Detection:
    return Detection(name, score, (x, 0, x + size, size))


def is_match(things: list[Detection], include: list[dict], exclude=(), colours: dict | None = None) -> bool:
    return matches(things, {"include": include, "exclude": list(exclude)}, lambda t: (colours or {})[t.box[0]])


def test_include_is_a_minimum_and_exclude_a_limit():
    three = [{"class": "apple", "count": 3}]
    four = [{"class": "apple", "count": 4}]
    detections = [[detection("apple", 20 * k) for k in range(n)] for n in range(6)]
    assert [is_match(things, three) for things in detections] == [False, False, False, True, True, True]
    assert [is_match(things, three, four) for things in detections] == [False, False, False, True, False, False]


def test_every_included_class_is_required():
    both = [{"class": "apple", "count": 1}, {"class": "pear", "count": 1}]
    assert is_match([detection("apple"), detection("pear", 20)], both) and not is_match([detection("apple"), detection("apple", 20)], both)


def test_enough_objects_of_the_class_must_have_the_color():
    things = [detection("apple", 0), detection("apple", 20), detection("pear", 40)]
    colours = {0: "red", 20: "green", 40: "red"}
    one, two = ([{"class": "apple", "count": n, "color": "red"}] for n in (1, 2))
    assert is_match(things, one, colours=colours) and not is_match(things, two, colours=colours)
    swapped = [{"class": "apple", "count": 1, "color": "green"}, {"class": "pear", "count": 1, "color": "green"}]
    assert not is_match(things, swapped, colours=colours)


def test_duplicate_detections_count_once_and_neighbours_count_twice():
    twice = [detection("apple", 0, 0.6), detection("apple", 1, 0.9), detection("pear", 0, 0.5), detection("apple", 8, 0.7)]
    assert sorted((t.name, t.score) for t in suppress_duplicates(twice, 0.5)) == [("apple", 0.7), ("apple", 0.9), ("pear", 0.5)]
    assert suppress_duplicates([], 0.5) == []


def test_the_color_is_classified_inside_the_box():
    image, clip = SCENE.draw(), CLIPEncoder(CLIP, "evaluate.clip")
    boxes = {"red": (6, 22, 26, 42), "blue": (36, 22, 56, 42)}
    assert {name: classify_color(clip, image, Detection("circle", 1.0, box)) for name, box in boxes.items()} == {
        name: name for name in boxes
    }


def test_pixels_outside_the_mask_do_not_change_the_color():
    clip, mask = CLIPEncoder(CLIP, "evaluate.clip"), np.zeros((64, 64), bool)
    mask[24:44, 24:44] = True
    colors: dict[str, set] = {"bare": set(), "masked": set()}
    for around in ("blue", "green", "white"):
        image = Image.new("RGB", (64, 64), around)
        image.paste("red", (24, 24, 44, 44))
        for kind, mask_of in (("bare", None), ("masked", mask)):
            colors[kind].add(classify_color(clip, image, Detection("square", 1.0, (0, 0, 64, 64), mask_of)))
    assert len(colors["masked"]) == 1 and len(colors["bare"]) > 1


def tiny_owlv2(folder: Path) -> str:
    """An OWLv2, tiny and untrained."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(CLIP)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = tower | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tokenizer.model_max_length,
        "eos_token_id": tokenizer.eos_token_id,
    }
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = Owlv2Config(text_config=text, vision_config=tower | {"image_size": 64, "patch_size": 16}, projection_dim=32)
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    image_processor = transformers.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    transformers.Owlv2Processor(image_processor, tokenizer).save_pretrained(folder)
    return str(folder)


def tiny_mask2former(folder: Path, labels: int = 3) -> str:
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


@pytest.mark.parametrize(("build", "name"), [(tiny_owlv2, "circle"), (tiny_mask2former, "thing 1")])
def test_each_kind_of_detector_finds_objects_inside_the_image(build, name, tmp_path):
    image = SCENE.draw().resize((90, 60))
    find = detector.load(build(tmp_path / "model"))
    detections = find(image, [name], 0.0)
    assert detections and all(t.name == name and 0 <= t.score <= 1 for t in detections)
    assert all(t.mask is None or (t.mask.shape == (60, 90) and t.box[2] <= 90 and t.box[3] <= 60) for t in detections)


def test_counting_prompts_have_a_higher_threshold(tmp_path):
    model, image = tiny_owlv2(tmp_path / "model"), SCENE.draw()
    best = max(t.score for t in detector.load(model)(image, ["circle"], 0.0))
    config = detector.Config(model, CLIP, threshold=best - 0.01, counting_threshold=best + 0.01)
    prompts = [prompt("circle"), prompt("circle", "counting")]
    assert detector.verdicts([image] * 2, prompts, config) == [True, False]
    assert detector.verdicts([image], prompts[:1], replace(config, threshold=best + 0.01)) == [False]


def test_coco_models_accept_the_class_names_of_geneval(tmp_path):
    find = detector.load(tiny_mask2former(tmp_path / "model", 80))
    assert (
        find.label_ids["tv remote"] == find.label_ids["thing 65"] == 65
        and len(detector.COCO_CLASSES) == len(set(detector.COCO_CLASSES)) == 80
    )
    assert all(t.name == "person" for t in find(SCENE.draw(), ["person"], 0.0))


def test_bad_prompts_and_models_give_clear_errors(tmp_path, models):
    model, image = tiny_mask2former(tmp_path / "model"), SCENE.draw()
    with pytest.raises(ValueError, match=r"has no class 'thing 9' \(did you mean 'thing [012]'\?\): name an OWLv2"):
        detector.verdicts([image], [prompt("thing 9")], detector.Config(model))
    with pytest.raises(ValueError, match="'a-1' has no `include`"):
        detector.verdicts([image], [{"id": "a-1", "category": "color", "prompt": "a"}], detector.Config(model))
    with pytest.raises(ValueError, match="asks for 'mauve': `detector` knows red, orange"):
        detector.verdicts([image], [prompt("thing 1", color="mauve")], detector.Config(model))
    with pytest.raises(ValueError, match="of the kind clip: name an OWLv2, a Mask2Former or facenet-pytorch"):
        detector.load(str(models / "clip"))
    with pytest.raises(FileNotFoundError, match="evaluate.judge.detector.model is 'models/none'"):
        detector.load("models/none")
