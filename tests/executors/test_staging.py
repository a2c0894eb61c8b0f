"""Workers that see nothing of the stage's disk make the same bytes, by way of a store, and what goes wrong there is one sentence."""

import json
import shutil
import tempfile
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock
from helpers import tiny_models as tiny
from helpers.executor_workers import Peek
from helpers.small_models import SOURCES, digest
from helpers.stages import caption

import stages.caption
import stages.crawl
from stages.crawl import crawl
from stages.score import score
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.blob_store import BlobStore
from sur_adapter.executors.executor import Executor
from sur_adapter.executors.staging import SCRATCH, files
from sur_adapter.features.extractors import clip, vae
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import read_table, write_tar
from sur_adapter.io.work_cache import WorkCache
from sur_adapter.models.stable_diffusion import TextEncoders


def scratches() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"))


def test_a_worker_sees_what_its_task_reads_and_nothing_else_and_leaves_nothing(home, apart):
    for name in ("one", "two", "model/a", "model/b"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    before = scratches()
    with (
        WorkCache("peek") as work,
        Executor(
            partial(Peek, work, str(home)), lambda name: ["model", "hub/name", None, Path(name)], config=ExecutorConfig(**apart)
        ) as executor,
    ):
        (one, saw_one, seen, where), (two, saw_two, *_), made = executor.map(["one", "two", "three="])
        assert (one, two) == ("one", "two") and saw_one == ["model/a", "model/b", "one"] and saw_two == ["model/a", "model/b", "two"]
        assert not seen and where != str(home) and where.endswith(str(home)), "a mirror of the stage's disk"
        assert made.file == work.folder / "three=" and made.file.read_bytes() == b"made"
        (home.parent / "store/sha256" / sha256(b"one").hexdigest()).write_bytes(b"eno")
        with pytest.raises(ValueError, match=r"store/sha256/7692.* is not what was put there: remove it, and run the same command again"):
            list(executor.map(["one"]))
    assert scratches() == before
    assert {file.read_bytes() for file in (home.parent / "store/sha256").iterdir()} == {b"eno", b"two", b"model/a", b"model/b", b"made"}


def captioned_and_scored(apart: dict, shards: Path, models: Path, between=None) -> None:
    """By one process and by one that sees nothing of its disk: the bytes are the same, but for what happens to the first shard between."""
    shutil.copytree(models / "blip", "blip")
    shutil.copytree(shards, "raw")
    rules = {"model": "blip", "top_p": 0.9, "batch": 3}
    for name, executor in (("inline", None), ("apart", apart)):
        between(rules) if executor and between else None
        captions = Path(name, "captions")
        caption(Path("raw/s"), captions / "s", caption=rules, executor=executor)
        score(Path("raw"), captions, Path(name, "phash"), scores={"phash": {}}, sources={"s": {}}, executor=executor)
    one, other = digest(Path("inline")), digest(Path("apart"))
    assert len(one) == 11 and one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == ({"captions/s/captions-000000.parquet"} if between else set())


def test_captions_and_scores_are_the_bytes_of_one_process_and_what_an_earlier_run_said_goes_along(home, apart, shards, models, monkeypatch):
    captioned_and_scored(apart, shards, models, partial(say_before, monkeypatch))
    assert list(read_table(Path("apart/captions/s/captions-000000.parquet")).simple_prompt) == ["said before"] * 3


def say_before(monkeypatch, rules: dict) -> None:
    """A run that is stopped when it has captioned its first shard and not yet written it; what it said is then told from what would be."""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(stages.caption, "write_table", stopped)
        caption(Path("raw/s"), Path("stopped"), caption=rules)
    (said,) = Path("work").glob("caption-*/000000-000000")
    said.write_text(json.dumps(["said before"] * 3))


def stopped(*_):
    raise KeyboardInterrupt


@pytest.mark.skipif(not (find_spec("s3fs") and find_spec("moto")), reason="s3fs or moto is not installed: pip install s3fs 'moto[server]'")
def test_captions_and_scores_are_the_bytes_of_one_process_by_way_of_an_object_store(home, apart, shards, models, monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        told = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
        for name, value in told.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        with pytest.raises(ValueError, match=r"executor.store is 's3://bucket/folder', which cannot be used \(FileNotFoundError: .*bucket"):
            captioned_and_scored(apart | {"store": "s3://bucket/folder"}, shards, models)
        for name in ("blip", "raw", "inline"):
            shutil.rmtree(name)
        store = BlobStore("s3://bucket/folder")
        store.fs.mkdir("bucket")
        captioned_and_scored(apart | {"store": "s3://bucket/folder"}, shards, models)
        there = store.fs.ls("bucket/folder/sha256", detail=False, refresh=True)
        assert len(there) > 40 and all(len(name.rpartition("/")[2]) == 64 for name in there)
    finally:
        server.stop()


def test_a_crawl_is_the_bytes_of_one_process(home, apart, raw, monkeypatch):
    monkeypatch.setattr(stages.crawl, "AT_ONCE", 40)
    crawl(Path("miniature"), sources=SOURCES, executor=apart)
    assert digest(Path("miniature")) == digest(raw / "miniature")


def test_of_a_model_that_draws_a_lane_of_the_cache_takes_the_parts_it_asks(home, monkeypatch):
    model = tiny.diffusion(Path("sd1"), "sd1")
    for parts, load in ((clip.files(model), TextEncoders), (vae.files(model), partial(vae.load, precision="fp32"))):
        there = files(parts)
        assert there and not any("unet" in file.parts for file in there)
        with tempfile.TemporaryDirectory() as elsewhere, monkeypatch.context() as patched:
            for file in there:
                Path(elsewhere, file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, Path(elsewhere, file))
            patched.chdir(elsewhere)
            load(model)


def test_a_lane_of_pictures_reads_the_tars_that_hold_them_wherever_these_lie(home):
    ids = []
    for name in ("a", "b"):
        rows, pictures = tiny.pairs(2)
        data = {record_id(name.encode() + value): name.encode() + value for value in pictures.values()}
        write_tar(home / f"raw/{name}/images-000000.tar", ((key, "png", value) for key, value in data.items()))
        ids.append(list(data))
    album = ImageIndex(home / "raw", set(ids[0] + ids[1]))
    assert album.files(ids[1]) == {home / "raw/b/images-000000.tar"} and len(album.files(ids[0][:1] + ids[1][:1])) == 2
    shutil.move("raw", "elsewhere")
    moved = album.moved(lambda file: home / "elsewhere" / file.relative_to(home / "raw"))
    assert moved[ids[0][0]].startswith(b"a") and moved[ids[1][1]].startswith(b"b")


@pytest.fixture(params=["file", "memory"])
def depot(request, tmp_path) -> BlobStore:
    return BlobStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path.name}/store")


def test_a_file_is_put_once_and_anew_where_somebody_was_stopped_amid_it(depot, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    item = depot.put(tmp_path / "a")
    there = f"{depot.folder}/{item.sha256}"
    assert item.size == 3 and depot.fs.cat_file(there) == b"abc" and depot.fs.ls(depot.folder, detail=False) == [there]
    depot.fs.pipe_file(there, b"abx")  # of the size that it should have
    again = BlobStore(depot.address)
    assert again.put(tmp_path / "a") == item and depot.fs.cat_file(there) == b"abx", "it was not put a second time"
    depot.fs.pipe_file(there, b"ab")
    assert BlobStore(depot.address).put(tmp_path / "a") == item and depot.fs.cat_file(there) == b"abc"


def test_what_is_spoilt_in_the_store_is_named_and_takes_no_files_place(depot, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    item = depot.put(tmp_path / "a")
    depot.get(item.sha256, tmp_path / "new/b")
    assert (tmp_path / "new/b").read_bytes() == b"abc"
    depot.fs.pipe_file(f"{depot.folder}/{item.sha256}", b"abx")
    with pytest.raises(ValueError, match=rf"store/sha256/{item.sha256} is not what was put there: remove it, and run the same"):
        depot.get(item.sha256, tmp_path / "new/b")
    depot.fs.rm(f"{depot.folder}/{item.sha256}")
    with pytest.raises(ValueError, match=r"executor.store is '.*store', which cannot be used \(FileNotFoundError"):
        depot.get(item.sha256, tmp_path / "new/b")
    assert (tmp_path / "new/b").read_bytes() == b"abc" and len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    "address, said",
    [
        ("s3://hugo:hunter2@bucket/folder", "executor.store holds a user, a password or a key: leave it out"),
        ("simplecache::s3://hugo:hunter2@bucket/folder", "executor.store is no address: give one such as s3://bucket/folder"),
        ("zip://hunter2::s3://bucket/folder", "executor.store is no address"),
        ("mnt/hunter2", "executor.store is no address"),
        (5, "executor.store is no address"),
        ("s4://bucket/hunter3", r"executor.store is 's4://bucket/hunter3', which cannot be used \(ValueError: Protocol not known: s4\)"),
    ],
)
def test_a_store_that_cannot_be_is_refused_in_a_sentence_whichever_engine_is_asked_for(tmp_path, address, said):
    for kind in ("inline", "processes"):
        with pytest.raises(ValueError, match=said) as refused:
            Executor(partial(Peek, None, ""), config=ExecutorConfig(kind=kind, store=address))
        assert "hunter2" not in str(refused.value)


def test_a_package_that_is_missing_is_named():
    known = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "oss": "ossfs", "webhdfs": "requests", "box": "boxfs"}
    protocol, package = next((protocol, package) for protocol, package in known.items() if not find_spec(package))
    with pytest.raises(
        ValueError, match=rf"executor.store is '{protocol}://b/f', for which a package is missing \(.*{package}.*\): install it"
    ):
        BlobStore(f"{protocol}://b/f")


def test_a_store_that_cannot_be_written_ends_the_stage_in_a_sentence_and_loses_nothing(home, apart, shards):
    Path("store").write_text("no folder")
    shutil.copytree(shards, "raw")
    wrong = apart | {"store": f"file://{home}/store"}
    with pytest.raises(ValueError, match=r"executor.store is '.*store', which cannot be used \((NotADirectory|FileExists)Error.*goes on"):
        caption(Path("raw/s"), Path("captions"), caption={"model": "blip"}, executor=wrong)
    assert Path("store").read_text() == "no folder" and not Path("captions").exists()


def test_what_a_killed_worker_left_is_removed_by_the_next_one(own_work, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("dead", "alive"):
        (tmp_path / f"{SCRATCH}{name}/home").mkdir(parents=True)
    (tmp_path / f"{SCRATCH}dead.lock").touch()
    with FileLock(tmp_path / f"{SCRATCH}alive.lock"), WorkCache("peek") as work:
        with Executor(
            partial(Peek, work, ""), config=ExecutorConfig(kind="processes", workers=1, store=f"file://{tmp_path}/store")
        ) as executor:
            list(executor.map(["three="]))
        assert scratches() == {tmp_path / f"{SCRATCH}alive", tmp_path / f"{SCRATCH}alive.lock"}
