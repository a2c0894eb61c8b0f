"""A detector counts what a prompt asks for: {"class", "count", "color"?} of each entry of `include` and `exclude`.

In GenEval's manner (Ghosh et al., arXiv 2310.11513), though its figures are not GenEval's, whose detector is another build: a thing
counts above a confidence of 0.3, of 0.9 where the category is counting; `include` wants at least so many, `exclude` fewer; the colour is
the nearest of ten to CLIP, on the crop with its surroundings grey. The thresholds are those of Mask2Former: OWLv2 is rarely as sure, so
lower `counting` with it, on pictures that are not the test's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torchvision.ops import nms
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForUniversalSegmentation,
    AutoModelForZeroShotObjectDetection,
    AutoProcessor,
)

from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import resolve_device
from sur_adapter.registry import did_you_mean

PARAM = "evaluate.judge.detector.model"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
GREY = 127  # around the thing whose colour is asked
NAMES = (  # in COCO's order, as GenEval names them: published models of COCO spell some otherwise
    "person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,bench,bird,cat,dog,"
    "horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,snowboard,sports ball,kite,"
    "baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,"
    "orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,dining table,toilet,tv,laptop,computer mouse,tv remote,"
    "computer keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush"
)
COCO = NAMES.split(",")


@dataclass
class Thing:
    """One detection: box (left, top, right, bottom) in pixels; mask (H, W), where the detector draws one."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


def verdicts(
    images: list[Image.Image],
    prompts: list[dict],
    *,
    model: str = "facebook/mask2former-swin-small-coco-instance",
    clip: str = "openai/clip-vit-large-patch14",
    threshold: float = 0.3,
    counting: float = 0.9,
    overlap: float = 0.5,
) -> list[bool]:
    """model: a Mask2Former, or a detector that is told in words what to look for (OWLv2). clip: names colours.

    overlap: of two boxes of one class that share more of their union the surer is kept. Raises ValueError for a prompt that lists nothing.
    """
    for prompt in prompts:
        if not prompt.get("include") and not prompt.get("exclude"):
            raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `detector` reads: add it, or set evaluate.judge to null")
        for entry in (e for e in prompt.get("include", []) if e.get("color", "red") not in COLOURS):
            raise ValueError(f"prompt {prompt['id']!r} asks for {entry['color']!r}: `detector` knows {', '.join(COLOURS)}")
    find = load(model)
    shown = []
    for image, prompt in zip(images, prompts, strict=True):
        least = counting if prompt["category"] == "counting" else threshold
        names = list(dict.fromkeys(entry["class"] for key in ("include", "exclude") for entry in prompt.get(key, [])))
        things = apart([thing for thing in find(image, names, least) if thing.score > least], overlap)
        shown.append(agrees(things, prompt, lambda thing, image=image: colour(_clip(clip), image, thing)))
    return shown


def agrees(things: list[Thing], prompt: dict, colour: Callable[[Thing], str]) -> bool:
    """Whether there are as many as `include` wants, in its colours, and fewer than `exclude` forbids."""

    def count(entry: dict) -> int:
        of_class = [thing for thing in things if thing.name == entry["class"]]
        return sum("color" not in entry or colour(thing) == entry["color"] for thing in of_class)

    wanted = all(count(entry) >= entry["count"] for entry in prompt.get("include", []))
    return wanted and all(count(entry) < entry["count"] for entry in prompt.get("exclude", []))


def apart(things: list[Thing], overlap: float) -> list[Thing]:
    """Without the less sure of two boxes of one class that overlap by more than that share of their union."""
    kept = []
    for name in dict.fromkeys(thing.name for thing in things):
        mine = [thing for thing in things if thing.name == name]
        boxes, scores = torch.tensor([t.box for t in mine], dtype=torch.float32), torch.tensor([t.score for t in mine])
        kept += [mine[i] for i in nms(boxes, scores, overlap).tolist()]
    return kept


def colour(clip: CLIPEncoder, image: Image.Image, thing: Thing) -> str:
    """The nearest of COLOURS to the thing, cut out, what is not its own grey."""
    pixels = np.asarray(image.convert("RGB"))
    if thing.mask is not None:
        pixels = np.where(thing.mask[..., None], pixels, np.uint8(GREY))
    left, top, right, bottom = (int(round(v)) for v in thing.box)
    crop = Image.fromarray(pixels).crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    likeness = clip.encode_images([crop]) @ clip.encode_texts([f"a photo of a {c} {thing.name}" for c in COLOURS]).T  # (1, 10)
    return COLOURS[int(likeness.argmax())]


@cache
def _clip(model: str) -> CLIPEncoder:
    return CLIPEncoder(model, "evaluate.judge.detector.clip")


@cache
def load(model: str) -> "Worded | Masked":
    """Loaded once. FileNotFoundError where there is none."""
    with loading_errors(PARAM, model):
        kind = AutoConfig.from_pretrained(model, **NO_REMOTE_CODE).model_type
    if kind not in ("owlv2", "owlvit", "mask2former"):
        raise ValueError(f"params.yaml: {PARAM} is {model!r}, of the kind {kind}: name an OWLv2 or a Mask2Former")
    return (Masked if kind == "mask2former" else Worded)(model)


class Worded:
    """A detector that is told in words what to look for."""

    def __init__(self, model: str):
        with loading_errors(PARAM, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.model = (
                AutoModelForZeroShotObjectDetection.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY).to(resolve_device()).eval()
            )

    @torch.inference_mode()
    def __call__(self, image: Image.Image, names: list[str], least: float) -> list[Thing]:
        words = [[f"a photo of a {name}" for name in names]]
        inputs = self.processor(text=words, images=image, return_tensors="pt").to(self.model.device)
        (found,) = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), threshold=least, target_sizes=[(image.height, image.width)]
        )
        rows = zip(found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        return [Thing(names[label], score, tuple(box)) for label, score, box in rows]


class Masked:
    """A Mask2Former of fixed classes. Raises ValueError for a class that it does not know."""

    def __init__(self, model: str):
        with loading_errors(PARAM, model):
            self.processor = AutoImageProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.model = (
                AutoModelForUniversalSegmentation.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY).to(resolve_device()).eval()
            )
        labels = self.model.config.id2label
        self.known = {label: i for i, label in labels.items()} | (dict(zip(COCO, labels, strict=True)) if len(labels) == len(COCO) else {})

    @torch.inference_mode()
    def __call__(self, image: Image.Image, names: list[str], least: float) -> list[Thing]:
        if strange := next((name for name in names if name not in self.known), None):
            raise ValueError(f"the detector knows no {strange!r}{did_you_mean(strange, self.known)}: name an OWLv2, which is told in words")
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        (found,) = self.processor.post_process_instance_segmentation(
            self.model(**inputs), threshold=least, target_sizes=[(image.height, image.width)], return_binary_maps=True
        )
        wanted = {self.known[name]: name for name in names}
        masks = [] if not found["segments_info"] else found["segmentation"].bool().cpu().numpy()  # (M, H, W)
        pairs = zip(found["segments_info"], masks, strict=True)
        return [_outlined(wanted[s["label_id"]], s["score"], m) for s, m in pairs if s["label_id"] in wanted and m.any()]


def _outlined(name: str, score: float, mask: np.ndarray) -> Thing:
    y, x = np.nonzero(mask)
    return Thing(name, score, (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)), mask)
