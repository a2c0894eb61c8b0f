"""Captioning and scoring that are killed give the bytes of an uninterrupted run, and finished work is not repeated."""

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from helpers.small_models import SOURCES, digest
from helpers.stages import caption, crawl, score

from stages import caption as captioning
from sur_adapter.data.scores import phash
from sur_adapter.io.shards import read_table
from sur_adapter.io.work_cache import discard_work, work_dir
from sur_adapter.models.captioner import Captioner

pytestmark = pytest.mark.usefixtures("own_work")

ROWS_PER_SHARD, BATCH_SIZE = 20, 4
server = multiprocessing.get_context("forkserver")  # imports torch once for all processes
server.set_forkserver_preload(["stages.caption", "stages.score", "sur_adapter.data.scores.clip"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The 150 images of the fixture `raw`, in more shards."""
    folder = tmp_path_factory.mktemp("shards")
    crawl(folder / "miniature", sources=SOURCES, rows_per_shard=ROWS_PER_SHARD)
    return folder


def run(work: str, stage: Callable, *paths: Path, **sections) -> None:
    os.environ |= {"SUR_WORK": work, "TQDM_DISABLE": "1"}
    stage(*paths, **sections)


def discard_scores() -> None:
    """Removes finished scores, which would not be computed again."""
    discard_work("score")
    assert not [file for file in work_dir().iterdir() if file.is_dir()], "all other finished work is removed"


def count_finished() -> int:
    files = work_dir().rglob("*") if work_dir().exists() else ()
    return sum(file.is_file() and file.suffix != ".lock" and not file.name.endswith(".part") for file in files)


def run_with_kills(random: Random, counts: list[int], *job, **sections) -> None:
    """Starts a job and kills it shortly after so many files are finished, for each of `counts`; then runs it to the end."""
    for count in counts:
        process = server.Process(target=run, args=(os.environ["SUR_WORK"], *job), kwargs=sections)
        process.start()
        while process.is_alive() and count_finished() < count:
            time.sleep(0.001)
        time.sleep(random.random() * 0.03)
        process.kill()
        process.join()
        assert process.exitcode == -9
    run(os.environ["SUR_WORK"], *job, **sections)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_captioning_that_is_killed_gives_the_bytes_of_an_uninterrupted_run(shards, models, tmp_path, seed):
    config = {"model": str(models / "blip"), "top_p": 0.9, "batch_size": BATCH_SIZE, "sentences": 2}
    caption(shards / "miniature", tmp_path / "uninterrupted", caption=config)
    random = Random(seed)
    counts = sorted(random.sample(range(1, 9), 2))
    run_with_kills(random, counts, caption, shards / "miniature", tmp_path / "killed", caption=config)
    assert digest(tmp_path / "killed") == digest(tmp_path / "uninterrupted") and len(digest(tmp_path / "uninterrupted")) == 8
    assert not [file for file in work_dir().iterdir() if file.is_dir()]


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_scoring_that_is_killed_gives_the_bytes_of_an_uninterrupted_run(shards, models, tmp_path, seed):
    captions = tmp_path / "captions"
    caption(shards / "miniature", captions / "miniature", caption={"model": str(models / "blip")})
    sections = {"scores": {"clip": {"model": str(models / "clip"), "measures": ["simple", "complex"]}}, "sources": SOURCES}
    sections["scores"] |= {"phash": {}, "too_long": {"model": str(models / "clip")}}
    score(shards, captions, tmp_path / "uninterrupted", **sections)
    discard_scores()
    random = Random(seed)
    counts = sorted(random.sample(range(1, 16), 2))
    run_with_kills(random, counts, score, shards, captions, tmp_path / "killed", **sections)
    assert digest(tmp_path / "killed") == digest(tmp_path / "uninterrupted") and len(digest(tmp_path / "uninterrupted")) == 4
    discard_scores()


def test_a_finished_batch_is_captioned_again_only_if_an_input_has_changed(shards, models, tmp_path, monkeypatch):
    first: list[str] = []

    class StoppingCaptioner(Captioner):
        def _captions(self, pixels, images, ids):
            if len(first) >= 22:
                raise KeyboardInterrupt
            first.extend(ids)
            return super()._captions(pixels, images, ids)

    config = {"model": str(models / "blip"), "top_p": 0.9, "batch_size": BATCH_SIZE}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(captioning, "Captioner", StoppingCaptioner)
        caption(shards / "miniature", tmp_path / "out", caption=config)
    assert 22 <= len(first) < 26 and not (tmp_path / "out").exists()
    rest: list[str] = []
    monkeypatch.setattr(Captioner, "_captions", lambda self, pixels, images, ids: rest.extend(ids) or [["a red circle"]] * len(ids))
    caption(shards / "miniature", tmp_path / "other", caption=config | {"seed": 1})
    assert len(rest) == len(read_table(tmp_path / "other")), "the batches of another seed are not used"
    rest.clear()
    caption(shards / "miniature", tmp_path / "out", caption=config)
    table = read_table(tmp_path / "out")
    assert not set(first) & set(rest) and first + rest == list(table.id)
    assert list(table.simple_prompt == "a red circle") == [False] * len(first) + [True] * len(rest)


def test_a_finished_shard_is_scored_again_only_if_a_caption_has_changed(shards, models, tmp_path, monkeypatch):
    captions, scored = tmp_path / "captions", []

    def score_captions(images, rows, config):
        scored.append(len(rows))
        return [str(row["captions"][0]) for row in rows]

    def score_two_shards(images, rows, config):
        if len(scored) == 2:
            raise KeyboardInterrupt
        return score_captions(images, rows, config)

    sections = {"scores": {"phash": {}}, "sources": SOURCES}
    for config in ({}, {"top_p": 0.9, "seed": 3}):  # the second has other captions, so nothing of the first counts
        caption(shards / "miniature", captions / "miniature", caption={"model": str(models / "blip")} | config)
        scored.clear()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(phash, "score", score_two_shards)
            score(shards, captions, tmp_path / "scores", **sections)
    monkeypatch.setattr(phash, "score", score_captions)
    score(shards, captions, tmp_path / "scores", **sections)
    table = read_table(captions / "miniature")
    assert len(scored) == 8 and sum(scored) == len(table)
    assert list(read_table(tmp_path / "scores/phash").value) == list(table.simple_prompt)
