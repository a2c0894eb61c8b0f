"""Captions per second: images in batches, against one at a time.

    python -m experiments.benchmarks.caption                 # the miniature's BLIP on a CPU; writes caption-cpu.json beside this file
    python -m experiments.benchmarks.caption large 64 256    # BLIP-large's sizes with random weights, on a GPU: caption-cuda.json

The miniature's BLIP writes three captions of each image, as params.yaml has it. Numbers after `large` are the batch size and the number of
images, with one caption each. Captions of random weights make no sense; their cost is the same.
"""

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoImageProcessor, AutoTokenizer, BlipConfig, BlipForConditionalGeneration

from miniature.scenes import make
from sur_adapter.models.captioner import CaptionConfig, Captioner

MINIATURE, SENTENCES = "models/miniature/blip", 3
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 384}


def main(large: bool, batch: int, count: int) -> None:
    with TemporaryDirectory() as folder:
        model = _large(folder) if large else MINIATURE
        sentences = 1 if large else SENTENCES
        captioner, single = (Captioner(CaptionConfig(model, sentences=number, top_p=0.9)) for number in (sentences, 1))
        images = [make(i).draw() for i in range(count)]
        if large:
            images = [image.resize((512, 512)) for image in images]
        ids = [str(i) for i in range(count)]
        for some in (captioner, single):
            _captions_per_second(some, images[:batch], ids[:batch], batch)  # one-time costs
        figures = {"model": "BLIP-large sizes, random weights" if large else MINIATURE, "device": _device(captioner), "pictures": count}
        figures["captions_per_picture"] = sentences
        for size in (1, batch):
            figures[f"captions_per_second_batch_{size}"] = _captions_per_second(captioner, images, ids, size)
        figures[f"pictures_per_second_batch_{batch}_one_caption"] = _captions_per_second(single, images, ids, batch)
    figures["times_faster"] = round(figures[f"captions_per_second_batch_{batch}"] / figures["captions_per_second_batch_1"], 2)
    text = json.dumps(figures, indent=2) + "\n"
    Path(__file__).with_name(f"caption-{captioner.model.device.type}.json").write_text(text)
    print(text)


def _captions_per_second(captioner: Captioner, images: list, ids: list[str], size: int) -> float:
    started = time.monotonic()
    captions = [text for of_batch in captioner.caption_batches(images, ids, size) for of_image in of_batch for text in of_image]
    return round(len(captions) / (time.monotonic() - started), 2)


def _device(captioner: Captioner) -> str:
    cuda = captioner.model.device.type == "cuda"
    return f"{torch.cuda.get_device_name()}, bf16" if cuda else f"CPU, {torch.get_num_threads()} threads, fp32"


def _large(folder: str) -> str:
    """Creates a BLIP: image encoder of Salesforce/blip-image-captioning-large, text decoder of its base, tokenizer of the miniature."""
    torch.manual_seed(0)
    text = {"hidden_size": 768, "encoder_hidden_size": 1024, "vocab_size": len(AutoTokenizer.from_pretrained(MINIATURE))}
    ids = {
        name: getattr(BlipConfig.from_pretrained(MINIATURE).text_config, name) for name in ("bos_token_id", "sep_token_id", "pad_token_id")
    }
    BlipForConditionalGeneration(BlipConfig(vision_config=LARGE, text_config=text | ids)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MINIATURE).save_pretrained(folder)
    AutoImageProcessor.from_pretrained(MINIATURE, size={"height": 384, "width": 384}).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main("large" in sys.argv, *map(int, [word for word in sys.argv[1:] if word.isdigit()] or (100, 400)))
