"""The figures of the model card, each with n and a 95 % interval where it is a rate. All on scenes no model was trained on.

Models are loaded as a user would, by plain `from_pretrained` from a folder like models/miniature/.
"""

import json
from collections.abc import Iterable
from math import exp, sqrt
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BlipForConditionalGeneration, BlipProcessor, CLIPModel, CLIPProcessor

from miniature import judge
from miniature.broad import broad_prompt
from miniature.free_order import free
from miniature.pretrain.llama import ARROW, STYLES, document, encode
from miniature.pretrain.world import TEST_SEED, test_scenes, texts
from miniature.rare_words import rare
from miniature.reasoning import reasoning
from miniature.scenes import CATEGORIES, Scene, make
from miniature.words import keywords, read, simple_prompt

BATCH = 60


def rate(hits: Iterable[bool]) -> dict:
    """A share with n and its Wilson interval."""
    hits = list(hits)
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return {"value": round(sum(hits) / len(hits), 4), "low": round(interval.low, 4), "high": round(interval.high, 4), "n": len(hits)}


def by_category(scenes: list[Scene], hits: list[bool]) -> dict:
    groups = {c: [h for s, h in zip(scenes, hits, strict=True) if s.category == c] for c in CATEGORIES}
    return {c: rate(h) for c, h in groups.items() if h} | {"overall": rate(hits)}


def each_category(n: int) -> list[Scene]:
    return [scene for category in CATEGORIES for scene in test_scenes(category, n)]


@torch.no_grad()
def vae(folder: Path, n: int) -> dict:
    """The judge on clean renders and on what the VAE makes of them, and the error between the two."""
    model = AutoencoderKL.from_pretrained(folder / "stable-diffusion/vae").eval()
    scenes = [make(TEST_SEED + i) for i in range(n)]
    clean, decoded, l1, mse = [], [], [], []
    for part in tqdm(_chunks(scenes, BATCH), desc="vae", disable=None):
        images = [s.draw() for s in part]
        x = torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2) / 127.5 - 1  # (B, 3, 64, 64)
        y = model.decode(model.encode(x).latent_dist.mean).sample.clamp(-1, 1)
        error = (y - x) / 2  # on 0 … 1
        l1 += error.abs().mean((1, 2, 3)).tolist()
        mse += error.square().mean((1, 2, 3)).tolist()
        clean += [judge.shows(image, s.include) for image, s in zip(images, part, strict=True)]
        decoded += [judge.shows(image, s.include) for image, s in zip(_pictures(y), part, strict=True)]
    return {
        "judge_clean": by_category(scenes, clean),
        "judge_decoded": by_category(scenes, decoded),
        "l1": round(float(np.mean(l1)), 5),
        "psnr_db": round(float(-10 * np.log10(np.mean(mse))), 2),
    }


def diffusion(folder: Path, n: int, steps: int = 20, guidance: float = 3.0) -> dict:
    """Share of pictures that show exactly what was asked, n prompts a category, one picture each."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "stable-diffusion", safety_checker=None)
    scenes = each_category(n)
    asked = {
        "complex": texts(scenes, "complex", TEST_SEED),
        "simple": texts(scenes, "simple", TEST_SEED, "development"),
        "simple_train_templates": texts(scenes, "simple", TEST_SEED, "train"),
        "broad": texts(scenes, "broad", TEST_SEED),
    }
    figures = {"steps": steps, "guidance": guidance}
    for style, prompts in asked.items():
        images = draw(pipe, prompts, [s.seed for s in scenes], steps, guidance)
        figures[style] = by_category(scenes, [judge.shows(i, s.include) for i, s in zip(images, scenes, strict=True)])
    return figures


def draw(pipe: StableDiffusionPipeline, prompts: list[str], seeds: list[int], steps: int = 20, guidance: float = 3.0) -> list[Image.Image]:
    """One picture for each prompt, its noise made on the CPU from its own seed: batches change nothing."""
    pipe.set_progress_bar_config(disable=True)
    side = pipe.unet.config.sample_size
    images = []
    for part in tqdm(_chunks(list(zip(prompts, seeds, strict=True)), BATCH), desc="draw", disable=None):
        noise = [torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(seed)) for _, seed in part]
        call = {"latents": torch.cat(noise), "num_inference_steps": steps, "guidance_scale": guidance}
        images += pipe([p for p, _ in part], **call).images
    return images


@torch.no_grad()
def blip(folder: Path, n: int) -> dict:
    """Share of captions that tell exactly what a clean render shows."""
    model = BlipForConditionalGeneration.from_pretrained(folder / "blip").eval()
    processor = BlipProcessor.from_pretrained(folder / "blip")
    scenes, captions = each_category(n), []
    for part in tqdm(_chunks(scenes, BATCH), desc="blip", disable=None):
        pixels = processor(images=[s.draw() for s in part], return_tensors="pt").pixel_values
        ids = model.generate(pixel_values=pixels, max_new_tokens=processor.tokenizer.model_max_length)
        captions += processor.batch_decode(ids, skip_special_tokens=True)
    told = (read(caption) for caption in captions)
    hits = [t is not None and judge.agree(t, s.include) for t, s in zip(told, scenes, strict=True)]
    return {"exact": by_category(scenes, hits), "examples": captions[:: max(1, n // 2)]}


@torch.no_grad()
def clip(folder: Path, n: int) -> dict:
    """Retrieval of the right one of n different contents, both ways, for both styles of prompt."""
    model, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder)
    contents = {json.dumps(s.include): s for s in (make(TEST_SEED + i) for i in range(20 * n))}
    scenes = list(contents.values())[:n]
    figures = {}
    for style, split in (("complex", "train"), ("simple", "development"), ("broad", "train")):
        prompts = texts(scenes, style, TEST_SEED, split)
        batch = processor(text=prompts, images=[s.draw() for s in scenes], return_tensors="pt", padding="max_length", truncation=True)
        scores = model(**batch).logits_per_text  # (texts, images)
        right = torch.arange(n)
        hits = {"text_to_image": scores.argmax(1) == right, "image_to_text": scores.argmax(0) == right}
        figures[style] = {way: rate(hit.tolist()) for way, hit in hits.items()}
    return figures


@torch.no_grad()
def llama(folder: Path, n: int) -> dict:
    """Perplexity a token on unseen lines, and how much of a plain sentence a linear map reads from each layer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder / "llama").eval(), AutoTokenizer.from_pretrained(folder / "llama")
    loss, tokens = 0.0, 0
    for part in _chunks([document(make(TEST_SEED + i), i, {"shares": dict.fromkeys(STYLES, 1)}) for i in range(n)], BATCH):
        batch = encode(tokenizer, part)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        counted = int((labels[:, 1:] != -100).sum())
        loss, tokens = loss + model(**batch, labels=labels).loss.item() * counted, tokens + counted
    language = {"perplexity": round(exp(loss / tokens), 3), "tokens": tokens}
    return language | {"rewriting": rewriting(model, tokenizer, n), "probe": probe(model, tokenizer, n)}


def rewriting(model, tokenizer, n: int) -> dict:
    """Share of sentences that the teacher rewrites into exactly the right keyword prompt, n of each kind, greedily."""
    figures = {}
    for kind, say in SENTENCES.items():
        scenes = [make(TEST_SEED + 600_000 + i) for i in range(n)]
        answers = rewrite(model, tokenizer, [say(scene) for scene in scenes])
        figures[kind] = rate(answer == keywords(scene) for answer, scene in zip(answers, scenes, strict=True))
    return figures


SENTENCES = {  # what the teacher is asked: these scenes, and in templates and implied ones these builds, were not read by it
    "templates": lambda scene: simple_prompt(scene, scene.seed, "development"),
    "broad language": lambda scene: broad_prompt(scene, scene.seed),
    "free order": lambda scene: free(scene, scene.seed),
    "rare words": lambda scene: rare(scene, scene.seed),
    "implied, known expressions": lambda scene: reasoning(scene, scene.seed, "text", "test")[1],
    "implied, held-out expressions": lambda scene: reasoning(scene, scene.seed, "held_out", "test")[1],
}


@torch.no_grad()
def rewrite(model, tokenizer, sentences: list[str], new_tokens: int = 16) -> list[str]:
    """What the teacher writes after "sentence => ", greedily."""
    answers = []
    for part in _chunks(sentences, BATCH):
        batch = tokenizer([s + ARROW.rstrip() for s in part], padding=True, padding_side="left", return_tensors="pt")
        ids = model.generate(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        answers += [a.strip() for a in tokenizer.batch_decode(ids[:, batch.input_ids.shape[1] :], skip_special_tokens=True)]
    return answers


FACTS = {"count": ("counting", "count"), "color": ("counting", "color"), "action": ("action", "pose")}


@torch.no_grad()
def probe(model, tokenizer, n: int) -> dict:
    """For each fact and layer, the accuracy of a ridge map from the last token's hidden state, fitted on sentences
    of the training templates and tested on n of the others."""
    figures = {}
    for fact, (category, key) in FACTS.items():
        fitted, tested = ([make(first + i, category) for i in range(n)] for first in (0, TEST_SEED))
        answers = [[str(s.include[0][key]) for s in scenes] for scenes in (fitted, tested)]
        kinds = sorted(set(answers[0]))
        target = torch.tensor([[float(a == kind) for kind in kinds] for a in answers[0]])  # (n, kinds)
        seen = _last_states(model, tokenizer, texts(fitted, "simple", 7))  # (layers + 1, n, d)
        new = _last_states(model, tokenizer, texts(tested, "simple", 7, "development"))
        figures[fact] = []
        for x, y in zip(seen, new, strict=True):
            guesses = (_affine(y, x) @ _ridge(_affine(x, x), target)).argmax(1)
            figures[fact].append(rate(kinds[g] == a for g, a in zip(guesses.tolist(), answers[1], strict=True)))
    return figures


def _last_states(model, tokenizer, sentences: list[str]) -> Tensor:
    parts = []
    for part in _chunks(sentences, BATCH):
        batch = tokenizer(part, padding=True, return_tensors="pt")
        states = torch.stack(model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True).hidden_states)
        last = batch.attention_mask.sum(1) - 1
        parts.append(states[:, torch.arange(len(part)), last])  # (layers + 1, B, d)
    return torch.cat(parts, 1)


def _affine(y: Tensor, like: Tensor) -> Tensor:
    """Standardised as `like` is, with a column of ones: [n, d] -> [n, d + 1]."""
    scaled = (y - like.mean(0)) / (like.std(0) + 1e-6) / sqrt(like.shape[1])
    return torch.cat([scaled, torch.ones(len(y), 1)], 1)


def _ridge(x: Tensor, target: Tensor, weight: float = 1e-3) -> Tensor:
    return torch.linalg.solve(x.T @ x + weight * len(x) / x.shape[1] * torch.eye(x.shape[1]), x.T @ target)


def _pictures(y: Tensor) -> list[Image.Image]:
    return [Image.fromarray(a) for a in ((y + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()]


def _chunks(items: list, size: int) -> list[list]:
    return [items[i : i + size] for i in range(0, len(items), size)]
