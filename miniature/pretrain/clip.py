"""CLIPModel and its CLIPTokenizer, contrastive on keyword prompts and plain sentences.

Two scenes that show the same are both right answers to each other's prompts, so the targets are spread over them.
A part of each batch is drawn as pairs with swapped colours (a red circle and a blue square beside a blue circle
and a red square): without them, CLIP learns bags of words and no later model could tell who has which colour.
"""

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from miniature.pretrain.loop import autocast, fit, save_half
from miniature.pretrain.vocabulary import build_tokenizer
from miniature.pretrain.world import World, mixed_texts, texts


def main(world_path: Path, checkpoint: Path, out: Path, *, settings: dict) -> None:
    world = World(world_path)
    corpus = [text for style in ("complex", "simple", "broad") for text in texts(world.scenes, style, 0)]
    tokenizer = build_tokenizer(corpus, settings["pieces"], settings["length"])
    torch.manual_seed(settings["seed"])
    model = build(settings, tokenizer)
    batches = Batches(world, settings["batch"], settings["swapped"])

    def loss(step):
        rows = batches(np.random.default_rng((settings["seed"], step)))
        prompts = mixed_texts([world.scenes[i] for i in rows], settings["seed"] + step, settings["shares"])
        keys = np.array([world.keys[i] for i in rows])
        same = torch.from_numpy(keys[:, None] == keys[None]).float()  # (B, B)
        with autocast():
            result = model(**encode(tokenizer, prompts), pixel_values=world.pixels(rows))
        logits = result.text_embeds.float() @ result.image_embeds.float().T * model.logit_scale.exp().clamp(max=100)  # (B, B)
        return contrastive(logits, same)

    training = fit(model, loss, checkpoint, settings, [world_path])
    save_half(model, out, training)
    CLIPProcessor(image_processor(), tokenizer).save_pretrained(out)


def contrastive(logits: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
    """Cross-entropy both ways, the target spread evenly over all that show the same. logits, same [B, B]."""
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Batches:
    """Rows of a batch: at random, and a share of partners that show the same things with their colours swapped."""

    def __init__(self, world: World, size: int, swapped: float):
        self.count, self.size, self.swapped = len(world.scenes), size, int(size * swapped)
        self.rows: dict[str, list[int]] = {}
        for i, key in enumerate(world.keys):
            self.rows.setdefault(key, []).append(i)
        self.partners = {i: self.rows[k] for i, s in enumerate(world.scenes) if (k := _swap(s)) in self.rows}
        self.paired = np.array(sorted(self.partners))

    def __call__(self, rng: np.random.Generator) -> np.ndarray:
        ones = rng.choice(self.paired, self.swapped // 2, replace=False)
        others = [rng.choice(self.partners[i]) for i in ones]
        rest = rng.choice(self.count, self.size - 2 * len(ones), replace=False)
        return np.concatenate([ones, others, rest]).astype(int)


def _swap(scene) -> str | None:
    if scene.category != "color":
        return None
    a, b = scene.include
    return json.dumps([a | {"color": b["color"]}, b | {"color": a["color"]}])


def build(settings: dict, tokenizer: CLIPTokenizer) -> CLIPModel:
    width = settings["width"]
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4}
    text = tower | {
        "vocab_size": len(tokenizer),
        "num_hidden_layers": settings["text_layers"],
        "max_position_embeddings": settings["length"],
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = tower | {"num_hidden_layers": settings["vision_layers"], "image_size": 64, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))


def encode(tokenizer: CLIPTokenizer, prompts: list[str]) -> dict:
    """input_ids [B, L]: BOS, words, EOS, then EOS as padding, as Stable Diffusion feeds CLIP; no mask."""
    ids = tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return {"input_ids": ids}


def image_processor() -> CLIPImageProcessor:
    half = [0.5, 0.5, 0.5]
    return CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, image_mean=half, image_std=half)
