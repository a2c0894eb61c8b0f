"""The VQA judge gives each choice a probability; a verdict is right if every right answer is the most probable."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from helpers.repository import ROOT
from PIL import Image
from transformers import AutoTokenizer, BlipForQuestionAnswering, BlipProcessor, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from miniature.pretrain import blip
from sur_adapter.evaluation.judges import vqa

RED, BLUE = (Image.new("RGB", (64, 64), colour) for colour in ("red", "blue"))
QUESTION = "what color is it"
COLOURS = ["red", "blue"]
ATOM = {"skill": "color", "q": QUESTION, "a": "red", "choices": COLOURS}
TEMPLATE = (
    "{% for message in messages %}{% for part in message.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} answer {% endif %}"
)


def prompt(*atoms: dict) -> dict:
    return {"id": "a-1", "category": "color", "prompt": "a red thing", "atoms": list(atoms)}


def tiny_blip_vqa(folder: Path, steps: int = 0) -> str:
    """A tiny BLIP for questions, trained for `steps` steps to distinguish red from blue."""
    torch.manual_seed(0)
    tokenizer = blip.train_tokenizer(["what color is it red blue light green yes no"], 24)
    config = blip.build({"width": 32, "text_layers": 1, "vision_layers": 1, "length": 24}, tokenizer).config
    model, processor = BlipForQuestionAnswering(config), BlipProcessor(blip.image_processor(), tokenizer)
    inputs = processor(images=[RED, BLUE], text=[QUESTION] * 2, return_tensors="pt")
    answers = tokenizer(COLOURS, return_tensors="pt").input_ids
    answers[:, 0] = model.decoder_start_token_id
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**inputs, labels=answers).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def tiny_chat_model(folder: Path, template: str | None = TEMPLATE) -> str:
    """A Qwen2-VL, tiny and untrained, that reads the miniature's words."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/miniature/llama")
    marks = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer.add_tokens(["Red", "Blue"])
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    ids = dict(
        zip(
            ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id"),
            map(tokenizer.convert_tokens_to_ids, marks),
            strict=True,
        )
    )
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text |= {"vocab_size": len(tokenizer), "max_position_embeddings": 512, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2, "patch_size": 8, "spatial_merge_size": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    sizes = {"patch_size": 8, "merge_size": 2, "min_pixels": 32 * 32, "max_pixels": 64 * 64}
    transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**sizes), tokenizer, transformers.Qwen2VLVideoProcessor(**sizes), chat_template=template
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    return tiny_blip_vqa(tmp_path_factory.mktemp("blip") / "trained", 60)


@pytest.fixture(scope="module")
def chat(tmp_path_factory) -> str:
    return tiny_chat_model(tmp_path_factory.mktemp("chat") / "qwen")


def test_a_trained_model_recognises_what_the_image_shows(trained):
    result = vqa.verdicts([RED, BLUE], [prompt(ATOM)] * 2, vqa.Config(trained))
    assert result[:, 0].tolist() == [1, 0] and result[0, 1] > 0.9 and result[1, 1] < 0.1
    swapped = vqa.verdicts([RED, BLUE], [prompt(ATOM | {"a": "blue"})] * 2, vqa.Config(trained))
    assert swapped[:, 0].tolist() == [0, 1] and swapped[:, 1] == pytest.approx(1 - result[:, 1], abs=1e-5)


def test_one_wrong_answer_makes_the_verdict_wrong_and_lowers_the_probability(trained):
    right = vqa.verdicts([RED], [prompt(ATOM)], vqa.Config(trained))[0, 1]
    (result,) = vqa.verdicts([RED], [prompt(ATOM, ATOM | {"a": "blue"}, ATOM)], vqa.Config(trained))
    assert result[0] == 0 and result[1] == pytest.approx((2 * right + (1 - right)) / 3, abs=1e-5)


def test_equally_probable_choices_are_not_a_right_answer():
    assert not vqa._right_answer(np.array([0.5, 0.5]), 0)[0]


def test_choice_probabilities_match_the_models_own_loss(tmp_path):
    model = tiny_blip_vqa(tmp_path / "blip")
    choices = ["red", "light green light", "blue"]
    p, judge = vqa.load(model).choice_probabilities(RED, QUESTION, choices), vqa.load(model)
    with torch.inference_mode():
        loss = []
        for choice in choices:
            ids = judge.processor.tokenizer(choice, return_tensors="pt").input_ids
            ids[:, 0] = judge.model.decoder_start_token_id
            inputs = judge.processor(images=RED, text=QUESTION, return_tensors="pt")
            loss.append(judge.model(**inputs, labels=ids).loss.item() * (ids.shape[1] - 1))
    assert p == pytest.approx(np.exp(-np.array(loss)) / np.exp(-np.array(loss)).sum(), rel=1e-3)
    assert vqa.load(model).choice_probabilities(RED, QUESTION, choices[::-1]) == pytest.approx(p[::-1], rel=1e-4)


def test_a_chat_models_probabilities_depend_on_the_image(chat):
    judge = vqa.load(chat)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    p = [judge.choice_probabilities(image, QUESTION, ["red", "blue", "green"]) for image in (RED, noise)]
    assert all(each.sum() == pytest.approx(1) and (each > 0).all() for each in p) and abs(p[0] - p[1]).max() > 1e-4
    assert vqa.verdicts([RED], [prompt(ATOM)], vqa.Config(chat))[0, 1] == pytest.approx(
        judge.choice_probabilities(RED, QUESTION, COLOURS)[0]
    )


def test_a_chat_models_probabilities_are_those_of_first_tokens_in_both_cases(chat):
    judge = vqa.load(chat)
    logits = []
    judge.model.register_forward_hook(lambda _m, _i, out: logits.append(out.logits[0, -1].clone()))
    p = judge.choice_probabilities(RED, QUESTION, ["red", "blue"])
    tokenizer = judge.processor.tokenizer
    tokens = [[tokenizer(word, add_special_tokens=False).input_ids[0] for word in pair] for pair in (("red", "Red"), ("blue", "Blue"))]
    assert len({t for pair in tokens for t in pair}) == 4
    raw = torch.stack([logits[0].softmax(-1)[pair].sum() for pair in tokens])
    assert p == pytest.approx((raw / raw.sum()).numpy(), rel=1e-4)


def test_only_a_chat_model_refuses_choices_that_begin_with_the_same_token(chat, trained):
    choices = ["red circle", "red square"]
    with pytest.raises(ValueError, match="red circle, red square begin with the same token"):
        vqa.load(chat).choice_probabilities(RED, QUESTION, choices)
    assert vqa.load(trained).choice_probabilities(RED, QUESTION, choices).sum() == pytest.approx(1, abs=1e-5)


def test_the_default_choices_are_yes_and_no(trained):
    result = vqa.verdicts([RED], [prompt({"q": "is it red", "a": "yes"}), prompt({"q": "is it red", "a": "no"})][:1], vqa.Config(trained))
    assert result[0, 1] == pytest.approx(vqa.load(trained).choice_probabilities(RED, "is it red", ["yes", "no"])[0], abs=1e-6)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ([], "'a-1' has no `atoms`"),
        ([ATOM | {"a": "green"}], "'a-1': 'what color is it' has the answer 'green'"),
        ([ATOM | {"choices": ["red"]}], "two or more choices"),
        ([ATOM | {"choices": ["red", "red", "blue"]}], "two or more choices"),
    ],
)
def test_bad_atoms_give_clear_errors(trained, atoms, message):
    with pytest.raises(ValueError, match=message):
        vqa.verdicts([RED], [prompt(*atoms)], vqa.Config(trained))


def test_models_that_cannot_answer_give_clear_errors(models, tmp_path):
    with pytest.raises(FileNotFoundError, match="evaluate.judge.vqa.model is 'models/none'"):
        vqa.load("models/none")
    with pytest.raises(ValueError, match="a BLIP that does not answer questions"):
        vqa.load(str(models / "blip"))
    with pytest.raises(ValueError, match="no chat template"):
        vqa.load(tiny_chat_model(tmp_path / "mute", None))
