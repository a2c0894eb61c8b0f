"""The judge recognises what an image shows, and answers UNKNOWN instead of guessing."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from miniature import judge
from miniature.scenes import COLORS, SIZE, Scene, Thing, make

SCENES = [make(seed) for seed in range(5000, 5300)]
WHITE = (255, 255, 255)


def draw(*things: Thing) -> Image.Image:
    return Scene(0, "color", things).draw()


def test_all_of_1000_clean_images_are_read_correctly():
    wrong = [s for s in map(make, range(1000)) if not judge.shows(s.draw(), s.include)]
    assert wrong == []


def test_an_image_is_not_accepted_for_another_scene():
    for scene, other in zip(SCENES, SCENES[1:], strict=False):
        assert judge.shows(scene.draw(), other.include) == (scene.include == other.include)


def test_swapped_colours_are_not_accepted():
    for scene in (s for s in SCENES if s.category == "color"):
        a, b = scene.include
        assert not judge.shows(scene.draw(), [a | {"color": b["color"]}, b | {"color": a["color"]}])


def test_another_count_or_an_additional_object_is_not_accepted():
    for scene in (s for s in SCENES if s.category == "counting"):
        (entry,) = scene.include
        assert not judge.shows(scene.draw(), [entry | {"count": entry["count"] + 1}])
        assert not judge.shows(scene.draw(), [*scene.include, entry | {"color": "other"}])


def test_an_empty_image_shows_nothing():
    empty = Image.new("RGB", (SIZE, SIZE), WHITE)
    assert judge.read(empty) == []
    assert not any(judge.shows(empty, s.include) for s in SCENES)


@pytest.mark.parametrize("fill", [(0, 0, 0), (128, 128, 128), (220, 38, 38), (250, 140, 195)])
def test_an_image_of_a_single_colour_is_accepted_for_no_scene(fill):
    flat = Image.new("RGB", (SIZE, SIZE), fill)
    assert not any(judge.shows(flat, s.include) for s in SCENES)


def test_blur_gives_no_other_class_and_strong_blur_no_accepted_image():
    for radius in (2, 4, 8):
        for scene in SCENES:
            for entry in judge.read(scene.draw().filter(ImageFilter.GaussianBlur(radius))):
                assert entry["class"] == judge.UNKNOWN or entry["class"] in {e["class"] for e in scene.include}
    accepted = [judge.shows(s.draw().filter(ImageFilter.GaussianBlur(5)), s.include) for s in SCENES]
    assert sum(accepted) == 0


def test_merged_objects_are_counted_neither_as_two_nor_as_one():
    for cls in ("circle", "square", "star", "heart"):
        a, b = (Thing(cls, "red", None, x, 32, 10) for x in (26, 38))
        assert not judge.shows(draw(a, b), [{"class": cls, "count": 2, "color": "red"}])
        assert not judge.shows(draw(a, b), [{"class": cls, "count": 1, "color": "red"}])


def test_an_object_of_two_colours_is_unknown():
    image = draw(Thing("circle", "red", None, 32, 32, 14))
    half = Image.new("RGB", (SIZE, SIZE), COLORS["blue"])
    dark = image.convert("L").point(lambda v: 255 if v < 200 else 0)
    left = (0, 0, 32, 64)
    image.paste(half.crop(left), left, dark.crop(left))
    assert judge.read(image)[0]["class"] == judge.UNKNOWN


def test_an_object_of_an_unnamed_colour_is_unknown():
    for fill in ((120, 120, 120), (0, 255, 255), (110, 70, 30)):
        image = Image.new("RGB", (SIZE, SIZE), WHITE)
        ImageDraw.Draw(image).ellipse((18, 18, 46, 46), fill=fill)
        assert judge.read(image)[0]["class"] == judge.UNKNOWN, fill


def test_an_object_of_an_unnamed_shape_is_unknown():
    image = Image.new("RGB", (SIZE, SIZE), WHITE)
    ImageDraw.Draw(image).rectangle((6, 28, 58, 36), fill=COLORS["red"])
    assert judge.read(image) == [{"class": judge.UNKNOWN, "count": 1, "color": judge.UNKNOWN}]


def test_noise_has_no_known_class():
    rng = np.random.default_rng(0)
    for _ in range(100):
        noise = Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
        assert not any(e["class"] != judge.UNKNOWN for e in judge.read(noise))


def test_a_small_additional_spot_is_detected():
    for scene in (s for s in SCENES if s.category == "color"):
        image = scene.draw()
        ImageDraw.Draw(image).rectangle((0, 0, 3, 2), fill=(90, 90, 90))
        assert not judge.shows(image, scene.include)


def test_a_larger_image_of_the_same_scene_is_accepted():
    for scene in SCENES[:60]:
        assert judge.shows(scene.draw().resize((256, 256), Image.Resampling.LANCZOS), scene.include)


RED_CIRCLE, BLUE_STAR = {"class": "circle", "count": 1, "color": "red"}, {"class": "star", "count": 1, "color": "blue"}
RUNNER = {"class": "robot", "count": 1, "color": "red", "pose": "running"}


@pytest.mark.parametrize(
    ("reading", "include", "kind"),
    [
        ([BLUE_STAR, RED_CIRCLE], [RED_CIRCLE, BLUE_STAR], "none"),
        ([RED_CIRCLE, {"class": judge.UNKNOWN, "count": 1, "color": judge.UNKNOWN}], [RED_CIRCLE, BLUE_STAR], "unclear thing"),
        ([RED_CIRCLE], [RED_CIRCLE, BLUE_STAR], "wrong thing"),
        ([RED_CIRCLE, BLUE_STAR | {"count": 2}], [RED_CIRCLE, BLUE_STAR], "wrong number"),
        ([RED_CIRCLE | {"color": "blue"}, BLUE_STAR | {"color": "red"}], [RED_CIRCLE, BLUE_STAR], "swapped colors"),
        ([RED_CIRCLE | {"color": "blue"}, BLUE_STAR], [RED_CIRCLE, BLUE_STAR], "leaked color"),
        ([RED_CIRCLE | {"color": "green"}, BLUE_STAR], [RED_CIRCLE, BLUE_STAR], "wrong color"),
        ([RED_CIRCLE, RED_CIRCLE | {"color": "green"}], [RED_CIRCLE | {"count": 2}], "wrong color"),
        ([RUNNER | {"pose": "lying"}], [RUNNER], "wrong pose"),
    ],
)
def test_the_first_thing_that_is_wrong_is_the_kind_of_error(reading, include, kind):
    assert judge.error(reading, include) == kind and kind in judge.ERRORS
