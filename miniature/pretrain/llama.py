"""LlamaForCausalLM and its LlamaTokenizer: the teacher. It reads plain language of every kind and its keyword prompts.

"three discs the color of grass => 3 green circles"; "3 circles, red means three red circles"; "crimson is red".
Only the teacher reads implied attributes (reasoning.py), and only it reads those that are held out.
"""

import json
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from miniature.broad import broad_prompt, typo
from miniature.free_order import free
from miniature.pretrain.loop import autocast, fit, save_half
from miniature.pretrain.world import World
from miniature.rare_words import rare
from miniature.reasoning import reasoning
from miniature.scenes import Scene
from miniature.words import COLOR_WORDS, DOING, NOUNS, NUMBERS, complex_prompt, keywords, simple_prompt

ARROW = " => "  # between a sentence and its keyword prompt


def main(world_path: Path, checkpoint: Path, out: Path, *, llama: dict) -> None:
    world = World(world_path)
    tokenizer = train_tokenizer([document(s, s.seed, llama["reads"]) for s in world.scenes], llama["pieces"], llama["length"])
    torch.manual_seed(llama["seed"])
    model = build(llama, tokenizer)

    def loss(step, settings):
        rows = np.random.default_rng((settings["seed"], step)).choice(len(world.scenes), settings["batch"], replace=False)
        batch = encode(tokenizer, [document(world.scenes[i], settings["seed"] + step, settings["reads"]) for i in rows])
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        with autocast():
            return model(**batch, labels=labels).loss

    first, again = {k: v for k, v in llama.items() if k != "again"}, llama | llama["again"]
    training = fit(model, partial(loss, settings=first), checkpoint, first, [world_path])
    second = fit(model, partial(loss, settings=again), checkpoint.with_stem(checkpoint.stem + "-again"), again, [world_path])
    training |= {key: training[key] + second[key] for key in ("steps", "seconds")} | {"loss": second["loss"]}
    save_half(model, out, training)
    tokenizer.save_pretrained(out)


def document(scene: Scene, seed: int, reads: dict) -> str:
    """One line of what the teacher reads: a rewriting, a scene said twice, a scene and its facts, or a fact of the language."""
    rng = Random(f"document {seed} {scene.seed}")
    kind = rng.choices(("rewriting", "paraphrase", "facts", "idiom"), (70, 15, 10, 5))[0]
    if kind == "rewriting":
        return f"{plain_language(scene, rng, reads)}{ARROW}{keywords(scene)}"
    if kind == "idiom":
        return idiom(rng)
    prompts = (complex_prompt(scene, rng.getrandbits(30)), plain_language(scene, rng, reads))
    if kind == "facts":
        return f"{rng.choice(prompts)}: {facts(scene)}"
    return " means ".join(rng.sample(prompts, 2))


def plain_language(scene: Scene, rng: Random, reads: dict) -> str:
    """A sentence for the scene. reads: shares of STYLES; `capitals`: of sentences in upper case, and of titles; `typos`: of errors."""
    shares, capitals, typos = reads["shares"], reads.get("capitals", 0), reads.get("typos", 0)
    (style,) = rng.choices(list(shares), shares.values())
    sentence = STYLES[style](scene, rng.getrandbits(30))
    chance = rng.random() if capitals or typos else 1
    if chance < 2 * capitals:
        return sentence.upper() if chance < capitals else sentence.title()
    return (typo(sentence, rng) or sentence) if chance < 2 * capitals + typos else sentence


STYLES = {
    "simple": simple_prompt,
    "broad": broad_prompt,
    "free": free,
    "rare": rare,
    "implied": lambda scene, seed: reasoning(scene, seed, "all", "train")[1],
    "implied_free": lambda scene, seed: reasoning(scene, seed, "all", "free")[1],
}


def facts(scene: Scene) -> str:
    """What a scene holds, plainly: "3, red, circle" or "1, red, circle and 1, blue, square"."""
    return " and ".join(", ".join(str(e[key]) for key in ("count", "color", "class", "pose") if key in e) for e in scene.include)


def idiom(rng: Random) -> str:
    """A fact of the language: "crimson is red", "a pair is 2", "to be leaping is to be jumping"."""
    table = rng.choice((NUMBERS, COLOR_WORDS, NOUNS, DOING))
    name = rng.choice(list(table))
    if table is DOING:
        return f"to be {rng.choice(DOING[name][0])} is to be {name}"
    word = rng.choice(table[name])
    return f"{word.removesuffix(' of')} is {name}" if table is not NOUNS else f"a {word} is a {name}"


def encode(tokenizer: LlamaTokenizer, lines: list[str]) -> dict:
    """input_ids and attention_mask [B, T], BOS first, EOS last."""
    batch = tokenizer([line + tokenizer.eos_token for line in lines], padding=True, truncation=True, return_tensors="pt")
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def train_tokenizer(corpus: list[str], pieces: int, length: int) -> LlamaTokenizer:
    """Byte-pair encoding as LLaMA's: word starts marked by ▁, bytes for what was never seen."""
    bpe = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=pieces, special_tokens=special, show_progress=False))
    vocab = bpe.get_vocab()
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    return LlamaTokenizer(vocab=vocab, merges=merges, pad_token="</s>", padding_side="right", add_bos_token=True, model_max_length=length)


def build(settings: dict, tokenizer: LlamaTokenizer) -> LlamaForCausalLM:
    width = settings["width"]
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 8 // 3 // 32 * 32,
            num_hidden_layers=settings["layers"],
            num_attention_heads=width // 32,
            max_position_embeddings=settings["length"],
            tie_word_embeddings=True,
            **special,
        )
    )
