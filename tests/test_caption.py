"""Every picture kept has a plain sentence, the same one each time."""

import pytest
import small
from small import digest

from miniature.scenes import make
from stages.caption import caption
from stages.crawl import crawl
from sur_adapter.captioner import Captioner
from sur_adapter.records import read_table

SOURCES = {"miniature": {"count": 150, "seed": 3}}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return small.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    crawl(folder / "miniature", sources=SOURCES)
    return folder


def test_every_kept_picture_has_a_caption_in_the_order_of_raw_and_the_same_one_each_time(raw, models, tmp_path):
    for name, batch in (("a", 50), ("b", 50), ("c", 7)):
        caption(raw / "miniature", tmp_path / name, caption={"model": str(models / "blip"), "top_p": 0.9, "seed": 1, "batch": batch})
    table = read_table(raw / "miniature")
    assert list(read_table(tmp_path / "a").id) == list(table.id[table.dropped.isna()])
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    same = read_table(tmp_path / "a").simple_prompt == read_table(tmp_path / "c").simple_prompt
    assert same.mean() > 0.95, "the noise is the picture's own, not the batch's"


def test_a_caption_is_sampled_by_the_seed_or_the_likeliest(models):
    image, ids = [make(5).draw()] * 20, [str(i) for i in range(20)]
    sampled = [Captioner(str(models / "blip"), "cpu", 0.95, seed).caption(image, ids) for seed in (0, 1)]
    assert len(set(sampled[0])) > 5 and sampled[0] != sampled[1]
    assert len(set(Captioner(str(models / "blip"), "cpu").caption(image, ids))) == 1
