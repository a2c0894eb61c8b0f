"""The detector judge with real weights, of an installed package, judges real pictures as a person does, but for those that are listed.

The truth was read off the pictures by eye. Faces in drawings count; those of animals, and faces that are turned away or hidden, do not.
"""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers.repository import ROOT
from PIL import Image

from sur_adapter.evaluation.judges import detector

MODEL = "facenet-pytorch"
CONFIG = detector.Config(MODEL, str(ROOT / "models/miniature/clip"))  # with the default thresholds
REAL = ROOT.parent / "shared" / "realdata"
PHOTOGRAPHS = {  # taken by a camera, in the packages scikit-image and gradio: number of faces
    "skimage/data/astronaut.png": 1,
    "skimage/data/camera.png": 1,  # in profile
    "skimage/data/chelsea.png": 0,  # a cat
    "skimage/data/coffee.png": 0,
    "skimage/data/motorcycle_left.png": 0,
    "skimage/data/rocket.jpg": 0,
    "gradio/media_assets/images/cheetah.jpg": 0,
    "gradio/media_assets/images/cheetah1.jpg": 0,
    "gradio/media_assets/images/lion.jpg": 0,
    "gradio/media_assets/images/tower.jpg": 0,
}
GENERATED = {  # by text-to-image models, photographs and drawings, in shared/realdata: number of faces
    "comfyui-examples/flux_schnell_example.png": 0,
    "comfyui-examples/img2img_workflow.png": 2,  # a small woman, and a child's drawing
    "comfyui-examples/lora.png": 1,  # a small drawing
    "comfyui-examples/sdxl_simple_example.png": 0,
    "comfyui-examples/sdxlturbo_example.png": 0,  # a fox
    "invokeai/000001.1863159593.png": 0,
    "invokeai/000007.2407640369.png": 0,
    "invokeai/000011.1111168647.png": 0,
    "invokeai/000019.47.png": 0,  # a dog and a cat
    "invokeai/000022.47.png": 0,  # two cats
    "invokeai/apricots--3.png": 0,  # a man who is turned away
    "invokeai/apricots-3.png": 0,
    "invokeai/mountain-man4.png": 1,  # a drawing
    "sur-adapter-samples/image/1c1d4f13-21b0-4068-acd0-51a3ec1c18bc.png": 1,  # a drawing
    "sur-adapter-samples/image/dd9b038c-bd15-43ab-86ab-66e145ad7ff2.png": 1,
    "t2i-compbench/samples/a blue bench and a green cake_000002.png": 0,
    "t2i-compbench/samples/a brown horse and a blue vase_000001.png": 0,
    "t2v-metrics/images/0/DeepFloyd.jpg": 0,  # two dogs
    "t2v-metrics/images/0/Midjourney.jpg": 0,  # two drawn dogs
    "t2v-metrics/images/0/SDXL.jpg": 0,  # two drawn dogs
    "t2v-metrics/images/1/DeepFloyd.jpg": 0,  # two cats
    "t2v-metrics/images/1/Midjourney.jpg": 0,  # two drawn cats
    "t2v-metrics/images/1/SDXL.jpg": 0,  # two drawn cats
    "tifa/sample/coco_301091.jpg": 0,  # a surfer whose head is hidden
    "tifa/sample/drawbench_52.jpg": 0,  # three cats
    "tifa/sample/drawbench_8.jpg": 0,
}
SEEN_WRONGLY = {  # picture: the number that the detector sees
    "skimage/data/motorcycle_left.png": 1,  # between the wheels
    "gradio/media_assets/images/lion.jpg": 1,  # on the rock
    "comfyui-examples/img2img_workflow.png": 1,  # not the child's drawing
    "comfyui-examples/lora.png": 0,
    "tifa/sample/drawbench_52.jpg": 1,  # the face of a cat
}


@pytest.fixture
def installed():
    pytest.importorskip("facenet_pytorch", reason="the real weights are not installed: pip install facenet-pytorch==2.5.3")


def photograph(name: str) -> Image.Image:
    package, _, file = name.partition("/")
    spec = find_spec(package)
    if spec is None:
        pytest.skip(f"the photographs of {package} are not installed: pip install {'scikit-image' if package == 'skimage' else package}")
    return Image.open(Path(spec.submodule_search_locations[0]) / file).convert("RGB")


def asks_for(faces: int) -> dict:
    """A prompt for so many faces, no more."""
    include = [{"class": "face", "count": faces}] if faces else []
    return {"id": "faces", "category": "counting", "include": include, "exclude": [{"class": "face", "count": faces + 1}]}


def verdict(image: Image.Image, faces: int) -> bool:
    return detector.verdicts([image], [asks_for(faces)], CONFIG)[0]


def check(name: str, image: Image.Image, faces: int) -> None:
    seen = SEEN_WRONGLY.get(name, faces)
    assert verdict(image, seen) and (seen == faces or not verdict(image, faces)), name


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_is_judged_as_a_person_does(name, installed):
    check(name, photograph(name), PHOTOGRAPHS[name])


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_picture_is_judged_as_a_person_does(name, installed):
    if not REAL.is_dir():
        pytest.skip("the folder of real images is not beside this checkout: put it at ../shared/realdata")
    check(name, Image.open(REAL / name).convert("RGB"), GENERATED[name])


def test_a_photograph_is_refused_if_the_prompt_asks_for_more_or_fewer_faces(installed):
    image = photograph("skimage/data/astronaut.png")
    assert [verdict(image, faces) for faces in (0, 1, 2)] == [False, True, False]


def test_all_of_100_small_photographs_of_faces_and_none_of_100_others_show_a_face(installed):
    photograph("skimage/data/camera.png")  # skips without the package
    crops = np.load(Path(find_spec("skimage").submodule_search_locations[0]) / "data/lfw_subset.npy")  # (200, 25, 25), faces first

    def show(crop: np.ndarray) -> Image.Image:
        image = Image.new("RGB", (160, 160), "grey")
        image.paste(Image.fromarray((255 * crop).clip(0, 255).astype(np.uint8)).resize((100, 100), Image.Resampling.BICUBIC), (30, 30))
        return image

    assert [verdict(show(crop), 1) for crop in crops] == [True] * 100 + [False] * 100


def test_another_class_gives_one_sentence(installed):
    prompt = {"id": "a-1", "category": "color", "include": [{"class": "dog", "count": 1}]}
    sentence = "the detector has no class 'dog', only 'face': name an OWLv2, which takes any class"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        detector.verdicts([Image.new("RGB", (64, 64))], [prompt], CONFIG)


@pytest.mark.parametrize("size", [(1, 1), (19, 400), (20, 20)])
def test_an_image_that_is_too_small_for_a_face_has_none(size, installed):
    assert verdict(Image.new("RGB", size, "white"), 0)


def test_a_missing_package_gives_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    with pytest.raises(FileNotFoundError, match="model is 'facenet-pytorch', which is not installed: `pip install facenet-pytorch==2.5.3`"):
        detector.FaceDetector(MODEL)
