"""An object detector counts what a prompt asks for: {"class", "count", "color"?} of each entry of `include` and `exclude`.

It follows GenEval (Ghosh et al., arXiv 2310.11513), with another build of the detector, so its numbers are not GenEval's: an object counts
above a confidence of 0.3, in the category counting above 0.9; `include` requires at least `count` objects, `exclude` fewer; the color is
CLIP's nearest of ten, on the crop with its surroundings in grey. The thresholds are those of Mask2Former: OWLv2 is less confident, so lower
`counting_threshold` for it, on images other than the test's.

A model is a folder or hub id of transformers, or a name of PACKAGES: a detector whose weights come with an installed Python package.
"""

from collections.abc import Callable, Collection, Sequence
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

from sur_adapter.io.text import did_you_mean
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import resolve_device

PARAM = "evaluate.judge.detector.model"
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
GREY = 127  # of the surroundings of an object whose color is classified
# fmt: off
COCO_CLASSES = [  # in COCO's order, as GenEval names them: published models of COCO spell some of them otherwise
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign",
    "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack",
    "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove",
    "skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
]
# fmt: on


@dataclass(frozen=True)
class Config:
    """model: a Mask2Former with fixed classes, an open-vocabulary detector (OWLv2), or a name of PACKAGES. clip: classifies colors.

    threshold, counting_threshold: minimum confidence, in general and in the category counting. nms_threshold: of two boxes of one class
    with a larger intersection over union, the more confident one is kept.
    """

    model: str = "facebook/mask2former-swin-small-coco-instance"
    clip: str = "openai/clip-vit-large-patch14"
    threshold: float = 0.3
    counting_threshold: float = 0.9
    nms_threshold: float = 0.5


@dataclass
class Detection:
    """One object: box (left, top, right, bottom) in pixels; mask (H, W), if the detector segments."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


def verdicts(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> list[bool]:
    """Decides whether each image has what its prompt's `include` and `exclude` require. Raises ValueError for a prompt without either."""
    for prompt in prompts:
        if not prompt.get("include") and not prompt.get("exclude"):
            raise ValueError(f"prompt {prompt['id']!r} has no `include`, which `detector` reads: add it, or set evaluate.judge to null")
        for entry in prompt.get("include", []):
            if entry.get("color", "red") not in COLORS:
                raise ValueError(f"prompt {prompt['id']!r} asks for {entry['color']!r}: `detector` knows {', '.join(COLORS)}")
    detect = load(config.model)
    results = []
    for image, prompt in zip(images, prompts, strict=True):
        threshold = config.counting_threshold if prompt["category"] == "counting" else config.threshold
        names = list(dict.fromkeys(entry["class"] for key in ("include", "exclude") for entry in prompt.get(key, [])))
        detections = [detection for detection in detect(image, names, threshold) if detection.score > threshold]
        detections = suppress_duplicates(detections, config.nms_threshold)
        results.append(matches(detections, prompt, lambda d, image=image: classify_color(_load_clip(config.clip), image, d)))
    return results


def matches(detections: list[Detection], prompt: dict, color_of: Callable[[Detection], str]) -> bool:
    """Decides whether there are as many objects as `include` requires, in its colors, and fewer than `exclude` forbids."""

    def count(entry: dict) -> int:
        of_class = [detection for detection in detections if detection.name == entry["class"]]
        return sum("color" not in entry or color_of(detection) == entry["color"] for detection in of_class)

    included = all(count(entry) >= entry["count"] for entry in prompt.get("include", []))
    return included and all(count(entry) < entry["count"] for entry in prompt.get("exclude", []))


def suppress_duplicates(detections: list[Detection], nms_threshold: float) -> list[Detection]:
    """Runs non-maximum suppression within each class."""
    kept = []
    for name in dict.fromkeys(detection.name for detection in detections):
        same = [detection for detection in detections if detection.name == name]
        boxes, scores = torch.tensor([d.box for d in same], dtype=torch.float32), torch.tensor([d.score for d in same])
        kept += [same[i] for i in nms(boxes, scores, nms_threshold).tolist()]
    return kept


def classify_color(clip: CLIPEncoder, image: Image.Image, detection: Detection) -> str:
    """Returns the color of COLORS whose text is nearest to the cropped object by CLIP; what lies outside its mask is grey."""
    pixels = np.asarray(image.convert("RGB"))
    if detection.mask is not None:
        pixels = np.where(detection.mask[..., None], pixels, np.uint8(GREY))
    left, top, right, bottom = (int(round(v)) for v in detection.box)
    crop = Image.fromarray(pixels).crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    similarity = clip.encode_images([crop]) @ clip.encode_texts([f"a photo of a {color} {detection.name}" for color in COLORS]).T  # (1, 10)
    return COLORS[int(similarity.argmax())]


@cache
def _load_clip(model: str) -> CLIPEncoder:
    return CLIPEncoder(model, "evaluate.judge.detector.clip")


@cache
def load(model: str) -> "OpenVocabularyDetector | FixedClassDetector | FaceDetector":
    """Loads the detector of a model folder, a hub id or a name of PACKAGES, once.

    Raises FileNotFoundError if there is no model or its package is not installed, ValueError for one of another kind.
    """
    if model in PACKAGES:
        return PACKAGES[model](model)
    with loading_errors(PARAM, model):
        kind = AutoConfig.from_pretrained(model, **NO_REMOTE_CODE).model_type
    if kind not in ("owlv2", "owlvit", "mask2former"):
        raise ValueError(f"params.yaml: {PARAM} is {model!r}, of the kind {kind}: name an OWLv2, a Mask2Former or {', '.join(PACKAGES)}")
    return (FixedClassDetector if kind == "mask2former" else OpenVocabularyDetector)(model)


class OpenVocabularyDetector:
    """An OWLv2 that gets the classes as text."""

    def __init__(self, model: str):
        with loading_errors(PARAM, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            weights = AutoModelForZeroShotObjectDetection.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY)
        self.model = weights.to(resolve_device()).eval()

    @torch.inference_mode()
    def __call__(self, image: Image.Image, names: list[str], threshold: float) -> list[Detection]:
        texts = [[f"a photo of a {name}" for name in names]]
        inputs = self.processor(text=texts, images=image, return_tensors="pt").to(self.model.device)
        (result,) = self.processor.post_process_grounded_object_detection(
            self.model(**inputs), threshold=threshold, target_sizes=[(image.height, image.width)]
        )
        rows = zip(result["labels"].tolist(), result["scores"].tolist(), result["boxes"].tolist(), strict=True)
        return [Detection(names[label], score, tuple(box)) for label, score, box in rows]


class FixedClassDetector:
    """A Mask2Former with the classes that it was trained on. Raises ValueError for a class that it does not know."""

    def __init__(self, model: str):
        with loading_errors(PARAM, model):
            self.processor = AutoImageProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            weights = AutoModelForUniversalSegmentation.from_pretrained(model, dtype=torch.float32, **SAFETENSORS_ONLY)
        self.model = weights.to(resolve_device()).eval()
        labels = self.model.config.id2label
        self.label_ids = {label: i for i, label in labels.items()}
        if len(labels) == len(COCO_CLASSES):
            self.label_ids |= dict(zip(COCO_CLASSES, labels, strict=True))

    @torch.inference_mode()
    def __call__(self, image: Image.Image, names: list[str], threshold: float) -> list[Detection]:
        _check_classes(names, self.label_ids)
        inputs = self.processor(images=image, return_tensors="pt").to(self.model.device)
        (result,) = self.processor.post_process_instance_segmentation(
            self.model(**inputs), threshold=threshold, target_sizes=[(image.height, image.width)], return_binary_maps=True
        )
        requested = {self.label_ids[name]: name for name in names}
        masks = [] if not result["segments_info"] else result["segmentation"].bool().cpu().numpy()  # (M, H, W)
        segments = zip(result["segments_info"], masks, strict=True)
        return [
            _bounded(requested[info["label_id"]], info["score"], mask)
            for info, mask in segments
            if info["label_id"] in requested and mask.any()
        ]


def _bounded(name: str, score: float, mask: np.ndarray) -> Detection:
    """Creates a detection with the bounding box of its mask."""
    y, x = np.nonzero(mask)
    return Detection(name, score, (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1)), mask)


class FaceDetector:
    """The MTCNN (Zhang et al., arXiv 1604.02878) of the package facenet-pytorch, whose wheel holds the weights (2 MB, MIT licence).

    It was trained on photographs and sees one class, the faces of people. Raises ValueError for another class.
    """

    CLASSES = ("face",)
    SMALLEST = 20  # pixels: the network sees no smaller face

    def __init__(self, model: str):
        try:
            from facenet_pytorch import MTCNN
        except ImportError as error:
            raise FileNotFoundError(
                f"params.yaml: {PARAM} is {model!r}, which is not installed: `pip install facenet-pytorch==2.5.3`, "
                "the last version that takes any torch"
            ) from error
        self.model = MTCNN(min_face_size=self.SMALLEST, keep_all=True, device=resolve_device()).eval()

    def __call__(self, image: Image.Image, names: list[str], threshold: float) -> list[Detection]:
        _check_classes(names, self.CLASSES)
        if min(image.size) < self.SMALLEST:
            return []
        boxes, scores = self.model.detect(image.convert("RGB"))  # (N, 4), (N,); None without a face
        if boxes is None:
            return []
        found = zip(np.asarray(scores, float).tolist(), np.asarray(boxes, float).tolist(), strict=True)
        return [Detection("face", score, tuple(box)) for score, box in found if score > threshold]


PACKAGES = {"facenet-pytorch": FaceDetector}  # name -> detector, called with its name


def _check_classes(names: list[str], known: Collection[str]) -> None:
    """Raises ValueError for a name that is not among the classes that a detector knows."""
    if unknown := next((name for name in names if name not in known), None):
        hint = f", only {next(iter(known))!r}" if len(known) == 1 else did_you_mean(unknown, known)
        raise ValueError(f"the detector has no class {unknown!r}{hint}: name an OWLv2, which takes any class")
