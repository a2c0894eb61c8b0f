"""BlipForConditionalGeneration and its BlipProcessor: pictures to plain sentences, in phrases that hold no template of the test."""

from pathlib import Path

import numpy as np
import torch
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

from miniature.pretrain.loop import autocast, fit, save_half
from miniature.pretrain.world import World, texts


def main(world_path: Path, checkpoint: Path, out: Path, *, blip: dict) -> None:
    world = World(world_path)
    tokenizer = train_tokenizer(texts(world.scenes, "simple", 0, "phrases"), blip["length"])
    torch.manual_seed(blip["seed"])
    model = build(blip, tokenizer)

    def loss(step):
        rows = np.random.default_rng((blip["seed"], step)).choice(len(world.scenes), blip["batch"], replace=False)
        ids, mask = encode(tokenizer, texts([world.scenes[i] for i in rows], "simple", blip["seed"] + step, "phrases"))
        labels = ids.masked_fill(mask == 0, -100)
        with autocast():
            return model(pixel_values=world.pixels(rows), input_ids=ids, attention_mask=mask, labels=labels).loss

    training = fit(model, loss, checkpoint, blip, [world_path])
    save_half(model, out, training)
    BlipProcessor(image_processor(), tokenizer).save_pretrained(out)


def encode(tokenizer: BertTokenizer, sentences: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [B, T] that begin with BLIP's own [DEC], and their mask."""
    batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt")
    batch.input_ids[:, 0] = tokenizer.bos_token_id
    return batch.input_ids, batch.attention_mask


def train_tokenizer(corpus: list[str], length: int) -> BertTokenizer:
    """The world's words, letters for strangers, and BLIP's marks."""
    words = sorted({word.strip(",.").lower() for sentence in corpus for word in sentence.split()} - {""})
    letters = [chr(c) for c in range(97, 123)] + [str(d) for d in range(10)]
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ",", "."]
    tokens = [*marks, *letters, *(f"##{c}" for c in letters), *(w for w in words if len(w) > 1)]
    vocab = {token: i for i, token in enumerate(tokens)}
    return BertTokenizer(vocab=vocab, bos_token="[DEC]", model_max_length=length)


def build(settings: dict, tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    width = settings["width"]
    tower = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4}
    special = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = (
        tower
        | special
        | {
            "encoder_hidden_size": width,
            "num_hidden_layers": settings["text_layers"],
            "max_position_embeddings": settings["length"],
            "label_smoothing": 0.0,
        }
    )
    vision = tower | {"num_hidden_layers": settings["vision_layers"], "image_size": 64, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=width, image_text_hidden_size=width)
    return BlipForConditionalGeneration(config)


def image_processor() -> BlipImageProcessor:
    half = [0.5, 0.5, 0.5]
    return BlipImageProcessor(size={"height": 64, "width": 64}, image_mean=half, image_std=half)
