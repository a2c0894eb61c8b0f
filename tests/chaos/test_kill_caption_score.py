"""Captions and scores that are killed end in the bytes of a run left in peace, and what was done is not done again."""

import multiprocessing
import os
import time
from random import Random

import pytest
from helpers.small_models import SOURCES, digest

import stages.caption
import stages.crawl
import stages.score
from sur_adapter.data.scores import phash
from sur_adapter.io.shards import read_table
from sur_adapter.io.work_cache import work_dir
from sur_adapter.models.captioner import Captioner

pytestmark = pytest.mark.usefixtures("own_work")

SHARD, BATCH = 20, 4
server = multiprocessing.get_context("forkserver")  # imports torch once for all that are to be killed
server.set_forkserver_preload(["stages.caption", "stages.score", "sur_adapter.data.scores.clip"])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The 150 pictures of the fixture `raw`, in more shards."""
    folder = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stages.crawl, "SHARD", SHARD)
        stages.crawl.crawl(folder / "miniature", sources=SOURCES)
    return folder


def run(work: str, verb, *words, **sections) -> None:
    os.environ |= {"SUR_WORK": work, "TQDM_DISABLE": "1"}
    verb(*words, **sections)


def done() -> int:
    return (
        sum(1 for f in work_dir().rglob("*") if f.is_file() and f.suffix != ".lock" and not f.name.endswith(".part"))
        if work_dir().exists()
        else 0
    )


def killed(random: Random, moments: list[int], *job, **sections) -> None:
    """Kills a job a little after so much of it is done, and starts it again, moment after moment; then lets it end."""
    for moment in moments:
        process = server.Process(target=run, args=(os.environ["SUR_WORK"], *job), kwargs=sections)
        process.start()
        while process.is_alive() and done() < moment:
            time.sleep(0.001)
        time.sleep(random.random() * 0.03)
        process.kill()
        process.join()
        assert process.exitcode == -9
    run(os.environ["SUR_WORK"], *job, **sections)


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_a_captioning_that_is_killed_at_any_moment_ends_in_the_bytes_of_one_left_in_peace(shards, models, tmp_path, seed):
    rules = {"model": str(models / "blip"), "top_p": 0.9, "batch": BATCH}
    stages.caption.caption(shards / "miniature", tmp_path / "peace", caption=rules)
    random = Random(seed)
    moments = sorted(random.sample(range(1, 9), 2))
    killed(random, moments, stages.caption.caption, shards / "miniature", tmp_path / "killed", caption=rules)
    assert digest(tmp_path / "killed") == digest(tmp_path / "peace") and len(digest(tmp_path / "peace")) == 8
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_a_scoring_that_is_killed_at_any_moment_ends_in_the_bytes_of_one_left_in_peace(shards, models, tmp_path, seed):
    stages.caption.caption(shards / "miniature", (captions := tmp_path / "captions") / "miniature", caption={"model": str(models / "blip")})
    rules = {"scores": {"clip": {"model": str(models / "clip"), "measures": ["simple", "complex"]}}, "sources": SOURCES}
    stages.score.score(shards, captions, tmp_path / "peace" / "clip", **rules)
    random = Random(seed)
    killed(random, sorted(random.sample(range(1, 6), 2)), stages.score.score, shards, captions, tmp_path / "killed" / "clip", **rules)
    assert digest(tmp_path / "killed") == digest(tmp_path / "peace") and len(digest(tmp_path / "peace")) == 2
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


def test_a_batch_that_was_captioned_is_not_captioned_again_unless_anything_it_rests_on_has_changed(shards, models, tmp_path, monkeypatch):
    asked: list[str] = []

    class Stops(Captioner):
        def _best(self, pixels, images, ids):
            if len(asked) >= 22:
                raise KeyboardInterrupt
            asked.extend(ids)
            return super()._best(pixels, images, ids)

    rules = {"model": str(models / "blip"), "top_p": 0.9, "batch": BATCH}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages.caption, "Captioner", Stops)
        stages.caption.caption(shards / "miniature", tmp_path / "out", caption=rules)
    assert 22 <= len(asked) < 26 and not (tmp_path / "out").exists()
    first, rest = list(asked), []
    monkeypatch.setattr(Captioner, "_best", lambda self, pixels, images, ids: rest.extend(ids) or ["a red circle"] * len(ids))
    stages.caption.caption(shards / "miniature", tmp_path / "other", caption=rules | {"seed": 1})
    assert len(rest) == len(read_table(tmp_path / "other")), "work of another seed is not taken up"
    rest.clear()
    stages.caption.caption(shards / "miniature", tmp_path / "out", caption=rules)
    kept = read_table(tmp_path / "out")
    assert not set(first) & set(rest) and first + rest == list(kept.id)
    assert list(kept.simple_prompt == "a red circle") == [False] * len(first) + [True] * len(rest)


def test_a_shard_that_was_scored_is_not_scored_again_unless_what_is_said_of_it_has_changed(shards, models, tmp_path, monkeypatch):
    captions, looks = tmp_path / "captions", []
    stages.caption.caption(shards / "miniature", captions / "miniature", caption={"model": str(models / "blip")})

    def stops(images, rows):
        if len(looks) == 2:
            raise KeyboardInterrupt
        looks.append(len(rows))
        return [str(row["simple_prompt"]) for row in rows]

    rules = {"scores": {"phash": {}}, "sources": SOURCES}
    for seed in (0, 1):
        looks.clear()
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(phash, "score", stops)
            stages.score.score(shards, captions, tmp_path / "phash", **rules)
        if seed == 0:  # other words: nothing of the first run counts
            stages.caption.caption(
                shards / "miniature", captions / "miniature", caption={"model": str(models / "blip"), "top_p": 0.9, "seed": 3}
            )
    monkeypatch.setattr(phash, "score", lambda images, rows: looks.append(len(rows)) or [str(row["simple_prompt"]) for row in rows])
    stages.score.score(shards, captions, tmp_path / "phash", **rules)
    said = read_table(captions / "miniature")
    assert len(looks) == 8 and sum(looks) == len(said)
    assert list(read_table(tmp_path / "phash").value) == list(said.simple_prompt)
