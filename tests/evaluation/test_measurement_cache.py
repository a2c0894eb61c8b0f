"""Each image is measured once per measurement, and never mistaken for another one."""

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
    """A measurement that counts the images that it measures."""

    def __init__(self):
        self.measured = 0

    def __call__(self, images, prompts):
        self.measured += len(images)
        return [np.asarray(image)[..., 0].mean() for image in images]


class Length(Redness):
    def __call__(self, images, prompts):
        self.measured += len(images)
        return [(len(p["prompt"]), image.width) for image, p in zip(images, prompts, strict=True)]


@pytest.fixture
def make_cache(own_work):
    """A function that makes the cache of a counting measurement, in a folder of its own."""

    def make(measure, name="redness", reads_prompts=False, **settings) -> MeasurementCache:
        return MeasurementCache(name, measure, measurement_cache.__file__, settings, reads_prompts)

    return make


def test_a_measured_image_is_not_measured_again_even_by_another_cache_object(make_cache):
    redness = Redness()
    first = make_cache(redness)(IMAGES)
    assert first[:, 0].tolist() == [255, 0, 0] and redness.measured == 3
    assert (make_cache(redness)(IMAGES[::-1]) == first[::-1]).all() and redness.measured == 3


def test_only_new_images_are_measured_and_duplicates_once(make_cache):
    redness = Redness()
    make_cache(redness)(IMAGES[:2])
    new = GeneratedImage(png("white"), {})
    assert make_cache(redness)([*IMAGES[:2], new, new])[:, 0].tolist() == [255, 0, 255, 255] and redness.measured == 3


def test_new_settings_a_new_name_or_a_changed_model_measure_again(make_cache, tmp_path):
    redness, model = Redness(), tmp_path / "model"
    model.write_text("one")
    versions = [{}, {"scale": 2}, {"name": "other"}, {"model": str(model)}]
    for n, version in enumerate(versions, 1):
        make_cache(redness, **version)(IMAGES)
        assert redness.measured == 3 * n
    model.write_text("three")
    make_cache(redness, model=str(model))(IMAGES)
    assert redness.measured == 3 * len(versions) + 3


def test_the_prompt_is_part_of_the_key_only_if_the_measurement_reads_it(make_cache):
    redness, length = Redness(), Length()
    for text in ("a", "bcd"):
        images = [GeneratedImage(p.data, {"prompt": text}) for p in IMAGES]
        make_cache(redness)(images)
        assert make_cache(length, "length", reads_prompts=True)(images).tolist() == [[len(text), 8]] * 3
    assert (redness.measured, length.measured) == (3, 6)


def test_measurements_before_a_failure_are_kept(make_cache):
    def fails(images, prompts):
        raise RuntimeError("the GPU has gone")

    redness = Redness()
    make_cache(redness)(IMAGES[:2])
    with pytest.raises(RuntimeError):
        make_cache(fails)(IMAGES)
    make_cache(redness)(IMAGES)
    assert redness.measured == 3


def test_numbers_are_restored_bit_by_bit(make_cache):
    numbers = np.random.default_rng(0).normal(size=(3, 5))
    assert (make_cache(lambda images, prompts: numbers)(IMAGES) == numbers).all()
    assert (make_cache(lambda images, prompts: None)(IMAGES) == numbers).all()


def test_a_corrupt_row_is_measured_again_and_replaced(make_cache):
    redness = Redness()
    cache = make_cache(redness)
    numbers = cache(IMAGES)
    with sqlite3.connect(cache.file) as table:
        key, row = table.execute("SELECT key, numbers FROM measurements").fetchone()
        table.execute("UPDATE measurements SET numbers = ? WHERE key = ?", (bytes([row[0] ^ 1]) + row[1:], key))
    for _ in range(2):
        assert (cache(IMAGES) == numbers).all() and redness.measured == 4


def test_a_corrupt_file_gives_a_clear_error(make_cache):
    corrupt = make_cache(Redness())
    corrupt(IMAGES)
    corrupt.file.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match="cannot be saved in .*redness.*: remove the file"):
        corrupt(IMAGES)


def test_an_unwritable_folder_gives_a_clear_error(make_cache, tmp_path):
    (tmp_path / "work").write_text("a file where the folder should be")
    with pytest.raises(ValueError, match="cannot be saved in .*set SUR_WORK to"):
        make_cache(Redness())(IMAGES)


def test_concurrent_writers_share_one_file_and_lose_nothing(make_cache):
    measures, images = [Redness() for _ in range(4)], [GeneratedImage(png((k, 0, 0)), {}) for k in range(80)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda k: [make_cache(measures[k % 4])([image]) for image in images[k::8]], range(8)))
    last = Redness()
    assert make_cache(last)(images)[:, 0].tolist() == list(range(80)) and last.measured == 0
    assert sum(measure.measured for measure in measures) == 80


def test_files_unused_for_a_month_are_removed_with_old_work(make_cache):
    old, new = make_cache(Redness(), "old"), make_cache(Redness(), "clip_iqa")
    for one in (old, new):
        one(IMAGES)
        os.utime(one.file, (time.time() - MAX_AGE - 60,) * 2)
    new(IMAGES)
    with WorkCache("caption"):
        pass
    assert not old.file.exists() and new.file.exists()
