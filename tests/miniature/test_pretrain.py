"""The training of the miniature's models: seeded and resumable, with a reusable checkpoint only for equal settings and inputs."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from miniature.pretrain import clip, diffusion, loop, world
from miniature.pretrain.vocabulary import build_tokenizer
from miniature.scenes import make

SETTINGS = {"steps": 30, "lr": 0.01, "seed": 5, "ema": 0.9}


def fit(checkpoint, stop_at=None, inputs=(), **changed):
    """Trains a small regression by the shared loop; returns (weights, report). stop_at: the step that raises KeyboardInterrupt."""
    torch.manual_seed(0)
    model = nn.Linear(4, 2)

    def loss(step):
        if step == stop_at:
            raise KeyboardInterrupt
        x = torch.randn(16, 4)
        return (model(x) - x[:, :2]).square().mean()

    report = loop.fit(model, loss, checkpoint, SETTINGS | changed, inputs)
    return model.weight.detach().clone(), report


def test_an_interrupted_run_resumes_and_gives_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 10)
    uninterrupted, report = fit(tmp_path / "uninterrupted.pt")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "interrupted.pt", stop_at=25)
    resumed, _ = fit(tmp_path / "interrupted.pt")
    assert torch.equal(uninterrupted, resumed)
    assert report["steps"] == 30 and report["parameters"] == 10 and report["loss"] > 0


def test_a_checkpoint_of_other_settings_is_not_resumed(tmp_path):
    fit(tmp_path / "c.pt")
    again, _ = fit(tmp_path / "c.pt", seed=6)
    fresh, _ = fit(tmp_path / "d.pt", seed=6)
    assert torch.equal(again, fresh)


def test_a_checkpoint_of_other_inputs_is_not_resumed(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "x").write_text("one")
    fit(tmp_path / "c.pt", inputs=[data])
    assert fit(tmp_path / "c.pt", stop_at=0, inputs=[data])[1]["steps"] == 30  # nothing is left to do
    (data / "x").write_text("two")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "c.pt", stop_at=0, inputs=[data])


def test_the_error_for_an_unknown_stage_names_the_stages():
    result = subprocess.run([sys.executable, "-m", "miniature.pretrain", "vea"], capture_output=True, text=True)
    assert result.returncode == 1 and "STAGE one of world, vae, clip" in result.stderr


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("world")
    mix = {"action": 0.1, "color": 0.8, "counting": 0.1}
    world.main(path, settings={"count": 400, "seed": 0, "scattered": True, "mix": mix})
    return world.World(path)


def test_the_stored_images_are_those_of_their_scenes(small):
    assert len(small.scenes) == 400 == len(small.images)
    for row in (0, 17, 399):
        assert np.array_equal(small.images[row], np.asarray(small.scenes[row].draw()))
    assert sum(s.category == "color" for s in small.scenes) > 280
    pixels = small.pixels(np.array([0, 5]))
    assert pixels.shape == (2, 3, 64, 64) and pixels.min() >= -1 and pixels.max() == 1


def test_training_scenes_and_test_scenes_share_no_seed(small):
    assert max(s.seed for s in small.scenes) < world.TEST_SEED <= min(s.seed for s in world.test_scenes("action", 5))


def test_batches_for_clip_contain_pairs_of_scenes_with_swapped_colours(small):
    rows = clip.Batches(small, 40, 0.3)(np.random.default_rng(0))
    assert len(rows) == 40
    for one, other in zip(rows[:6], rows[6:12], strict=True):
        a, b = small.scenes[one].include, small.scenes[other].include
        assert [e["class"] for e in a] == [e["class"] for e in b]
        assert [e["color"] for e in a] == [e["color"] for e in b][::-1]


def test_the_contrastive_loss_counts_every_image_of_the_same_content_as_correct():
    same = torch.tensor([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    logits = 20 * same
    assert clip.contrastive(logits, same) < clip.contrastive(20 * torch.eye(3), same)
    assert clip.contrastive(logits, same).item() == pytest.approx(2 / 3 * np.log(2), abs=1e-3)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["three red circles, 8k", "a vermilion star"] * 20 + ["a typoo"], 3000, 12)


def test_the_tokenizer_pads_like_that_of_the_published_clip(tokenizer):
    (ids,) = clip.encode(tokenizer, ["red star"])["input_ids"].tolist()
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id
    assert len(ids) == 12 and ids.index(tokenizer.eos_token_id) == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red star"


def test_the_tokenizer_splits_words_as_clips_own_does_and_has_a_token_for_every_text(tokenizer):
    assert len(tokenizer) <= 3000
    assert " ".join(tokenizer.tokenize("three red circles, 8k")) == "three</w> red</w> circles</w> ,</w> 8</w> k</w>"
    assert tokenizer.tokenize("portrait lighting") == ["portrait</w>", "lighting</w>"]  # frequent in prompts, though not in the corpus
    rare = "a vermilion typoo"
    assert len(tokenizer.tokenize(rare)) > 3
    assert tokenizer.decode(tokenizer(rare).input_ids[1:-1]) == rare
    unknown = tokenizer("zebra #7! é 日本 🦊", add_special_tokens=False).input_ids
    assert len(unknown) > 5 and max(unknown) < len(tokenizer) - 2


def test_prompts_are_the_same_for_the_same_seed_and_mix_the_styles_in_their_shares():
    scenes = [make(i) for i in range(400)]
    shares = {"complex": 0.5, "simple": 0.3, "broad": 0.2}
    mixed = world.mixed_texts(scenes, 1, shares)
    assert mixed == world.mixed_texts(scenes, 1, shares) != world.mixed_texts(scenes, 2, shares)
    texts = {style: world.texts(scenes, style, 1) for style in shares}
    found = {style: sum(a == b for a, b in zip(mixed, texts[style], strict=True)) / len(scenes) for style in shares}
    assert found == pytest.approx(shares, abs=0.06)


def test_timesteps_stay_in_range_and_shift_to_late_ones_with_the_setting():
    torch.manual_seed(0)
    even, late = diffusion.times(20_000, 1000, 0.0), diffusion.times(20_000, 1000, 1.0)
    assert even.min() >= 0 and late.max() <= 999
    assert even.float().mean().item() == pytest.approx(500, abs=10) and late.float().mean().item() == pytest.approx(667, abs=10)
