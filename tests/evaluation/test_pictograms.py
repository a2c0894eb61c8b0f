"""The miniature's judge reads each image once, for its verdict, its count and its findings."""

from io import BytesIO
from math import isnan

import numpy as np
from helpers.small_models import encode
from PIL import Image

from miniature.scenes import COLORS, make
from sur_adapter.evaluation.confusion import FINDINGS, finding_columns
from sur_adapter.evaluation.judges import pictograms
from sur_adapter.evaluation.measurement_cache import GeneratedImage
from sur_adapter.evaluation.measurements import Measurements

COUNTING = [make(seed, "counting") for seed in range(4)]
COLOR = make(0, "color")


def prompt(name: str, category: str, include: list[dict]) -> dict:
    return {"id": name, "category": category, "prompt": "not read", "include": include}


def test_findings_are_the_error_and_the_color_and_pose_of_the_first_thing():
    action = make(1, "action")
    (actor,) = action.include
    asked = [
        prompt("a-0", "action", action.include),
        prompt("a-1", "action", [actor | {"color": "other"}]),
        prompt("c-0", "color", COLOR.include),
    ]
    asked[1]["include"][0]["color"] = next(color for color in COLORS if color != actor["color"])
    images = [Image.open(BytesIO(encode(scene.draw()))) for scene in (action, action, action)]
    numbers = np.array(pictograms.verdicts(images, asked, pictograms.Config()))
    columns = finding_columns(numbers, pictograms.FINDINGS, 3)
    assert columns["error"] == ["none", "wrong color", "wrong thing"] and tuple(columns) == FINDINGS
    assert columns["seen_color"] == [actor["color"]] * 2 + ["none"] and columns["asked_color"][2] == COLOR.include[0]["color"]
    assert columns["asked_pose"] == columns["seen_pose"] == [actor["pose"]] * 2 + [None]
    assert set(finding_columns(None, {}, 3)["error"]) == {None}


def test_the_verdict_and_the_count_of_an_image_come_from_one_reading(own_work, monkeypatch):
    own, images = pictograms.read, []
    monkeypatch.setattr(pictograms, "read", lambda image, strictness: images.append(image) or own(image, strictness))
    right = [GeneratedImage(encode(scene.draw()), prompt(f"a-{i}", "counting", scene.include)) for i, scene in enumerate(COUNTING)]
    more = [entry | {"count": entry["count"] + 1} for entry in COUNTING[0].include]
    other = [GeneratedImage(right[0].data, prompt("b-0", "counting", more))]
    other += [GeneratedImage(encode(COLOR.draw()), prompt("c-0", "color", COLOR.include))]
    judge = Measurements("pictograms").caches["judge"]
    numbers = judge([*right, *other])  # (N, 3 + findings)
    assert numbers[:, 0].tolist() == [1, 1, 1, 1, 0, 1] and np.isnan(numbers[:, 1]).all()
    shown = [scene.include[0]["count"] for scene in COUNTING]
    assert numbers[:5, 2].tolist() == [*shown, shown[0]] and isnan(numbers[5, 2])
    assert len(images) == len(right) + len(other)
    assert np.array_equal(judge([*right, *other]), numbers, equal_nan=True) and len(images) == len(right) + len(other)
