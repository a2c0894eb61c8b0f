"""A picture is measured once for each measure, whatever is asked beside it, and never taken for another."""

import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers.made_images import png

from sur_adapter.evaluation import measurement_cache
from sur_adapter.evaluation.measurement_cache import GeneratedImage, MeasurementCache
from sur_adapter.io.work_cache import MAX_AGE, WorkCache

IMAGES = [GeneratedImage(png(colour), {"prompt": colour}) for colour in ("red", "green", "blue")]


class Redness:
    """A measure that counts the pictures that it is asked for."""

    def __init__(self):
        self.asked = 0

    def __call__(self, images, prompts):
        self.asked += len(images)
        return [np.asarray(image)[..., 0].mean() for image in images]


class Length(Redness):
    def __call__(self, images, prompts):
        self.asked += len(images)
        return [(len(p["prompt"]), image.width) for image, p in zip(images, prompts, strict=True)]


@pytest.fixture
def gauge(own_work):
    """A function that makes the cache of a counting measurement, in a folder of its own."""

    def make(measure, name="redness", reads_prompts=False, **settings) -> MeasurementCache:
        return MeasurementCache(name, measure, measurement_cache.__file__, settings, reads_prompts)

    return make


def test_what_was_measured_is_not_measured_again_even_by_another_process(gauge):
    redness = Redness()
    first = gauge(redness)(IMAGES)
    assert first[:, 0].tolist() == [255, 0, 0] and redness.asked == 3
    assert (gauge(redness)(IMAGES[::-1]) == first[::-1]).all() and redness.asked == 3


def test_a_new_picture_is_measured_alone_and_twins_are_measured_once(gauge):
    redness = Redness()
    gauge(redness)(IMAGES[:2])
    new = GeneratedImage(png("white"), {})
    assert gauge(redness)([*IMAGES[:2], new, new])[:, 0].tolist() == [255, 0, 255, 255] and redness.asked == 3


def test_another_setting_another_name_and_another_state_of_the_model_are_measured_anew(gauge, tmp_path):
    redness, model = Redness(), tmp_path / "model"
    model.write_text("one")
    versions = [{}, {"scale": 2}, {"name": "other"}, {"model": str(model)}]
    for n, version in enumerate(versions, 1):
        gauge(redness, **version)(IMAGES)
        assert redness.asked == 3 * n
    model.write_text("three")
    gauge(redness, model=str(model))(IMAGES)
    assert redness.asked == 3 * len(versions) + 3


def test_the_prompt_counts_where_the_measure_reads_it_and_only_there(gauge):
    redness, length = Redness(), Length()
    for words in ("a", "bcd"):
        pictures = [GeneratedImage(p.data, {"prompt": words}) for p in IMAGES]
        gauge(redness)(pictures)
        assert gauge(length, "length", reads_prompts=True)(pictures).tolist() == [[len(words), 8]] * 3
    assert (redness.asked, length.asked) == (3, 6)


def test_what_was_measured_before_a_failure_is_kept(gauge):
    def fails(images, prompts):
        raise RuntimeError("the GPU has gone")

    redness = Redness()
    gauge(redness)(IMAGES[:2])
    with pytest.raises(RuntimeError):
        gauge(fails)(IMAGES)
    gauge(redness)(IMAGES)
    assert redness.asked == 3


def test_numbers_come_back_to_the_last_bit(gauge):
    numbers = np.random.default_rng(0).normal(size=(3, 5))
    assert (gauge(lambda images, prompts: numbers)(IMAGES) == numbers).all()
    assert (gauge(lambda images, prompts: None)(IMAGES) == numbers).all()


def test_a_flipped_bit_is_measured_anew_and_mended(gauge):
    redness = Redness()
    kept = gauge(redness)
    numbers = kept(IMAGES)
    with sqlite3.connect(kept.file) as table:
        key, row = table.execute("SELECT key, numbers FROM measurements").fetchone()
        table.execute("UPDATE measurements SET numbers = ? WHERE key = ?", (bytes([row[0] ^ 1]) + row[1:], key))
    for _ in range(2):
        assert (kept(IMAGES) == numbers).all() and redness.asked == 4


def test_a_spoilt_file_gets_a_sentence(gauge):
    spoilt = gauge(Redness())
    spoilt(IMAGES)
    spoilt.file.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="cannot be saved in .*redness.*: remove the file"):
        spoilt(IMAGES)


def test_a_folder_that_cannot_be_written_gets_a_sentence(gauge, tmp_path):
    (tmp_path / "work").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="cannot be saved in .*set SUR_WORK to"):
        gauge(Redness())(IMAGES)


def test_several_at_once_write_one_file_and_lose_nothing(gauge):
    measures, pictures = [Redness() for _ in range(4)], [GeneratedImage(png((k, 0, 0)), {}) for k in range(80)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: [gauge(measures[k % 4])([picture]) for picture in pictures[k::8]], range(8)))
    last = Redness()
    assert gauge(last)(pictures)[:, 0].tolist() == list(range(80)) and last.asked == 0
    assert sum(measure.asked for measure in measures) == 80


def test_what_nobody_asked_for_in_a_month_goes_with_unfinished_work(gauge):
    old, new = gauge(Redness(), "old"), gauge(Redness(), "clip_iqa")
    for one in (old, new):
        one(IMAGES)
        os.utime(one.file, (time.time() - MAX_AGE - 60,) * 2)
    new(IMAGES)
    with WorkCache("caption"):
        pass
    assert not old.file.exists() and new.file.exists()
