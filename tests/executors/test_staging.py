"""Workers without the stage's file system write the same bytes through a store, and every error is one sentence."""

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
from helpers.stages import caption, crawl, score

from stages import caption as captioning
from sur_adapter.data.crawl import shard_writer
from sur_adapter.executors.base import ExecutorConfig
from sur_adapter.executors.blob_store import BlobStore
from sur_adapter.executors.executor import Executor
from sur_adapter.executors.staging import SCRATCH, list_files
from sur_adapter.features.extractors import clip, vae
from sur_adapter.features.latents import load_vae
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.schema import record_id
from sur_adapter.io.shards import read_table, write_tar
from sur_adapter.io.work_cache import WorkCache, discard_work
from sur_adapter.models.stable_diffusion import TextEncoders


def scratches() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"))


def test_a_worker_sees_only_the_files_of_its_task_and_removes_them(home, no_shared_fs):
    for name in ("one", "two", "model/a", "model/b"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    before = scratches()
    with (
        WorkCache("peek") as work,
        Executor(
            partial(Peek, work, str(home)), lambda name: ["model", "hub/name", None, Path(name)], config=ExecutorConfig(**no_shared_fs)
        ) as executor,
    ):
        (one, saw_one, seen, where), (two, saw_two, *_), made = executor.map(["one", "two", "three="])
        assert (one, two) == ("one", "two") and saw_one == ["model/a", "model/b", "one"] and saw_two == ["model/a", "model/b", "two"]
        assert not seen and where != str(home) and where.endswith(str(home)), "a scratch folder with the paths of the stage's disk"
        assert made.file == work.folder / "three=" and made.file.read_bytes() == b"made"
        (home.parent / "store/sha256" / sha256(b"one").hexdigest()).write_bytes(b"eno")
        with pytest.raises(ValueError, match=r"store/sha256/7692.* is corrupt: remove it and run the same command again"):
            list(executor.map(["one"]))
    assert scratches() == before
    assert {file.read_bytes() for file in (home.parent / "store/sha256").iterdir()} == {b"eno", b"two", b"model/a", b"model/b", b"made"}


def check_captions_and_scores(no_shared_fs: dict, shards: Path, models: Path, between=None) -> None:
    """Captions and scores inline and without a shared file system, and compares the bytes. between: called before the second run; it may
    change the captions of the first shard."""
    shutil.copytree(models / "blip", "blip")
    shutil.copytree(shards, "raw")
    rules = {"model": "blip", "top_p": 0.9, "batch_size": 3}
    for name, executor in (("inline", None), ("no_shared_fs", no_shared_fs)):
        between(rules) if executor and between else None
        captions = Path(name, "captions")
        caption(Path("raw/s"), captions / "s", caption=rules, executor=executor)
        discard_work("score")
        score(Path("raw"), captions, Path(name, "scores"), scores={"phash": {}, "keywords": {}}, sources={"s": {}}, executor=executor)
    one, other = digest(Path("inline")), digest(Path("no_shared_fs"))
    assert len(one) == 12 and one.keys() == other.keys()
    assert {name for name in one if one[name] != other[name]} == ({"captions/s/captions-000000.parquet"} if between else set())


def test_captions_and_scores_are_the_same_bytes_and_unfinished_captions_are_staged_too(home, no_shared_fs, shards, models, monkeypatch):
    check_captions_and_scores(no_shared_fs, shards, models, partial(leave_unfinished_captions, monkeypatch))
    assert list(read_table(Path("no_shared_fs/captions/s/captions-000000.parquet")).simple_prompt) == ["from before"] * 3


def leave_unfinished_captions(monkeypatch, rules: dict) -> None:
    """Interrupts a run that has captioned its first shard but not written it, and marks these captions."""
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(captioning, "write_table", interrupt)
        caption(Path("raw/s"), Path("interrupted"), caption=rules)
    (unfinished,) = Path("work").glob("caption-*/000000-000000")
    unfinished.write_text(json.dumps([["from before"]] * 3))


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.skipif(
    not (find_spec("s3fs") and find_spec("moto")), reason="s3fs or moto is not installed: pip install -r requirements-dev.txt"
)
def test_captions_and_scores_are_the_same_bytes_through_an_object_store(home, no_shared_fs, shards, models, monkeypatch):
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        settings = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}
        for name, value in settings.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        with pytest.raises(ValueError, match=r"executor.store is 's3://bucket/folder', which cannot be used \(FileNotFoundError: .*bucket"):
            check_captions_and_scores(no_shared_fs | {"store": "s3://bucket/folder"}, shards, models)
        for name in ("blip", "raw", "inline"):
            shutil.rmtree(name)
        store = BlobStore("s3://bucket/folder")
        store.fs.mkdir("bucket")
        check_captions_and_scores(no_shared_fs | {"store": "s3://bucket/folder"}, shards, models)
        blobs = store.fs.ls("bucket/folder/sha256", detail=False, refresh=True)
        assert len(blobs) > 40 and all(len(name.rpartition("/")[2]) == 64 for name in blobs)
    finally:
        server.stop()


def test_a_crawl_is_the_same_bytes(home, no_shared_fs, raw, monkeypatch):
    monkeypatch.setattr(shard_writer, "IMAGES_PER_TASK", 40)
    crawl(Path("miniature"), sources=SOURCES, executor=no_shared_fs)
    assert digest(Path("miniature")) == digest(raw / "miniature")


def test_only_the_parts_of_a_diffusion_model_that_an_extractor_needs_are_staged(home, monkeypatch):
    model = tiny.diffusion(Path("sd1"), "sd1")
    for parts, load in ((clip.model_files(model), TextEncoders), (vae.model_files(model), partial(load_vae, precision="fp32"))):
        there = list_files(parts)
        assert there and not any("unet" in file.parts for file in there)
        with tempfile.TemporaryDirectory() as other, monkeypatch.context() as patched:
            for file in there:
                Path(other, file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, Path(other, file))
            patched.chdir(other)
            load(model)


def test_an_image_index_reads_tars_that_were_moved(home):
    ids = []
    for name in ("a", "b"):
        rows, images = tiny.pairs(2)
        data = {record_id(name.encode() + value): name.encode() + value for value in images.values()}
        write_tar(home / f"raw/{name}/images-000000.tar", ((key, "png", value) for key, value in data.items()))
        ids.append(list(data))
    index = ImageIndex(home / "raw", set(ids[0] + ids[1]))
    assert index.files(ids[1]) == {home / "raw/b/images-000000.tar"} and len(index.files(ids[0][:1] + ids[1][:1])) == 2
    shutil.move("raw", "other")
    moved = index.with_local_paths(lambda file: home / "other" / file.relative_to(home / "raw"))
    assert moved[ids[0][0]].startswith(b"a") and moved[ids[1][1]].startswith(b"b")


@pytest.fixture(params=["file", "memory"])
def store(request, tmp_path) -> BlobStore:
    return BlobStore(f"file://{tmp_path}/store" if request.param == "file" else f"memory://{tmp_path.name}/store")


def test_a_file_is_uploaded_once_and_again_after_an_interrupted_upload(store, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    item = store.put(tmp_path / "a")
    there = f"{store.folder}/{item.sha256}"
    assert item.size == 3 and store.fs.cat_file(there) == b"abc" and store.fs.ls(store.folder, detail=False) == [there]
    store.fs.pipe_file(there, b"abx")  # of the expected size
    again = BlobStore(store.address)
    assert again.put(tmp_path / "a") == item and store.fs.cat_file(there) == b"abx", "it was not uploaded a second time"
    store.fs.pipe_file(there, b"ab")
    assert BlobStore(store.address).put(tmp_path / "a") == item and store.fs.cat_file(there) == b"abc"


def test_a_corrupt_blob_is_named_and_replaces_no_file(store, tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    item = store.put(tmp_path / "a")
    store.get(item.sha256, tmp_path / "new/b")
    assert (tmp_path / "new/b").read_bytes() == b"abc"
    store.fs.pipe_file(f"{store.folder}/{item.sha256}", b"abx")
    with pytest.raises(ValueError, match=rf"store/sha256/{item.sha256} is corrupt: remove it and run the same"):
        store.get(item.sha256, tmp_path / "new/b")
    store.fs.rm(f"{store.folder}/{item.sha256}")
    with pytest.raises(ValueError, match=r"executor.store is '.*store', which cannot be used \(FileNotFoundError"):
        store.get(item.sha256, tmp_path / "new/b")
    assert (tmp_path / "new/b").read_bytes() == b"abc" and len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    "address, message",
    [
        ("s3://hugo:hunter2@bucket/folder", "executor.store contains a user, a password or a key: remove it"),
        ("simplecache::s3://hugo:hunter2@bucket/folder", "executor.store is not an address: give one such as s3://bucket/folder"),
        ("zip://hunter2::s3://bucket/folder", "executor.store is not an address"),
        ("mnt/hunter2", "executor.store is not an address"),
        (5, "executor.store is not an address"),
        ("s4://bucket/hunter3", r"executor.store is 's4://bucket/hunter3', which cannot be used \(ValueError: Protocol not known: s4\)"),
    ],
)
def test_an_invalid_store_is_reported_in_one_sentence_under_every_executor(tmp_path, address, message):
    for kind in ("inline", "processes"):
        with pytest.raises(ValueError, match=message) as raised:
            Executor(partial(Peek, None, ""), config=ExecutorConfig(kind=kind, store=address))
        assert "hunter2" not in str(raised.value)


def test_a_missing_package_of_a_store_is_named():
    known = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "oss": "ossfs", "webhdfs": "requests", "box": "boxfs"}
    protocol, package = next((protocol, package) for protocol, package in known.items() if not find_spec(package))
    with pytest.raises(
        ValueError, match=rf"executor.store is '{protocol}://b/f', which needs a package that is missing \(.*{package}.*\): install it"
    ):
        BlobStore(f"{protocol}://b/f")


def test_a_store_that_cannot_be_written_is_reported_in_one_sentence(home, no_shared_fs, shards):
    Path("store").write_text("no folder")
    shutil.copytree(shards, "raw")
    unusable = no_shared_fs | {"store": f"file://{home}/store"}
    with pytest.raises(
        ValueError, match=r"executor.store is '.*store', which cannot be used \((NotADirectory|FileExists)Error.*which resumes"
    ):
        caption(Path("raw/s"), Path("captions"), caption={"model": "blip"}, executor=unusable)
    assert Path("store").read_text() == "no folder" and not Path("captions").exists()


def test_the_scratch_folder_of_a_killed_worker_is_removed_by_the_next_one(own_work, monkeypatch, tmp_path):
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
