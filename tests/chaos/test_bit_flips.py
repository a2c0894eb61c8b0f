"""A flipped bit is detected on reading and by `python -m stages verify`, even if size and time are unchanged, and can be restored."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.made_images import png
from helpers.repository import ROOT, run
from helpers.small_models import iter_shards
from ruamel.yaml import YAML

from sur_adapter.adapter.adapter import SURAdapter
from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.evaluation.measurement_cache import GeneratedImage, MeasurementCache
from sur_adapter.features.query_bank import load_query_bank, save_query_bank
from sur_adapter.features.store import FeatureStore, write_features
from sur_adapter.features.writer import is_finished
from sur_adapter.io.checksummed_safetensors import load_checked, save_checked
from sur_adapter.io.image_index import ImageIndex
from sur_adapter.io.schema import RAW_SCHEMA, record_id
from sur_adapter.io.shards import read_table, read_tar, write_table, write_tar
from sur_adapter.io.work_cache import WorkCache, work_dir
from sur_adapter.tools.verify import find_corrupt_work
from sur_adapter.training import checkpoint
from sur_adapter.training import losses as loss

COLOURS = ("red", "green", "blue", "white", "black")


def flip(file: Path, place: int = -1) -> None:
    """Flips one bit and keeps size, times and permissions. place: index of the byte; default: the middle."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[len(data) // 2 if place < 0 else place] ^= 8
    file.chmod(0o644)
    with file.open("r+b") as opened:  # in place, so that a hard link to the same bytes changes too
        opened.write(data)
    file.chmod(before.st_mode)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def detected(file: Path, read: Callable[[], object], places: range) -> set[bool]:
    """Flips one bit at each place. True: ValueError that names the file or its folder; None: same result; False: anything else."""
    expected, data, outcomes = repr(read()), file.read_bytes(), set()
    for place in places:
        flip(file, place)
        try:
            outcomes.add(None if repr(read()) == expected else False)
        except ValueError as error:
            outcomes.add(str(file) in str(error) or str(file.parent) in str(error))
        file.write_bytes(data)
    return outcomes


@pytest.fixture
def source(tmp_path) -> Path:
    """A raw folder of five images."""
    data, folder = [png(colour) for colour in COLOURS], tmp_path / "raw" / "s"
    write_tar(folder / "images-000000.tar", [(record_id(d), "png", d) for d in data])
    write_table(
        folder / "prompts-000000.parquet", [dict.fromkeys(RAW_SCHEMA.names) | {"id": record_id(d), "source": "s"} for d in data], RAW_SCHEMA
    )
    return folder


def test_every_bit_of_a_tables_pages_has_a_checksum(tmp_path):
    rows = pd.DataFrame({"id": [record_id(bytes([i])) for i in range(200)], "value": np.random.default_rng(0).normal(size=200)})
    write_table(file := tmp_path / "t.parquet", rows)
    footer = int.from_bytes(file.read_bytes()[-8:-4], "little") + 8
    assert detected(file, lambda: read_table(file).to_csv(), range(4, file.stat().st_size - footer, 17)) <= {True, None}
    flip(file, 1000)
    with pytest.raises(ValueError, match="t.parquet cannot be read .*checksum"):
        read_table(file)


def test_no_flipped_bit_of_a_raw_tar_changes_what_is_read(source):
    tar = source / "images-000000.tar"
    ids = {key for key, _, _ in read_tar(source)}
    places = range(0, tar.stat().st_size, 61)
    assert detected(tar, lambda: [p.tobytes() for _, _, images in iter_shards(source) for p in images()], places) == {True, None}
    assert detected(tar, lambda: sorted(ImageIndex(source.parent, ids).items()), places) == {True, None}
    flip(tar, 530)
    with pytest.raises(ValueError, match="images-000000.tar: image [0-9a-f]{16} is corrupt, .*verify"):
        dict(ImageIndex(source.parent, ids))


def test_no_flipped_bit_of_an_adapter_or_a_query_bank_changes_what_is_read(tmp_path):
    torch.manual_seed(0)
    SURAdapter(AdapterConfig(8, depth=1, heads=2)).save_pretrained(tmp_path / "adapter")
    layer = loss.CrossAttention(2, *(torch.randn(s) for s in ((4, 6), (6, 8), (6, 8), (6, 6), (6,))))
    save_query_bank({"down": layer}, tmp_path / "bank", "a/model")
    readers = {
        "adapter/model.safetensors": lambda: [v.tolist() for v in SURAdapter.from_pretrained(tmp_path / "adapter").state_dict().values()],
        "bank/queries.safetensors": lambda: [
            v.tolist() for layer in load_query_bank(tmp_path / "bank") for v in vars(layer).values() if v is not layer.heads
        ],
    }
    for name, read in readers.items():
        file = tmp_path / name
        places = range(8, file.stat().st_size, file.stat().st_size // 60)
        assert detected(file, read, places) <= {True, None}
        flip(file)
        with pytest.raises(ValueError, match=f"{name} is corrupt: create or download it again"):
            read()


def test_weights_of_other_software_are_loaded_without_a_checksum(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "theirs.safetensors", {"format": "pt"})
    tensors, metadata = load_checked(tmp_path / "theirs.safetensors")
    assert tensors["a"].tolist() == [1, 1, 1] and metadata == {}


def test_a_corrupt_shard_in_the_work_cache_does_not_count_as_finished(tmp_path):
    write_features(file := tmp_path / "train-000000.parquet", ["a", "b"], {"simple": np.ones((2, 4, 8), np.float16)})
    assert is_finished(file)
    flip(file, file.read_bytes().index(np.ones(8, np.float16).tobytes()) + 20)
    assert FeatureStore(tmp_path) and not is_finished(file)


def test_training_does_not_resume_from_a_corrupt_checkpoint(own_work):
    model = torch.nn.Linear(3, 3)
    with WorkCache("train", a=1) as work:
        checkpoint.save_checkpoint(work, {"model": model}, step=7)
        assert checkpoint.load_checkpoint(work, {"model": model})["step"] == 7
        flip(work.folder / checkpoint.KEY)
        assert checkpoint.load_checkpoint(work, {"model": model}) == {}


def test_verify_names_corrupt_unfinished_work_and_cached_measurements(own_work, source):
    cache = MeasurementCache("redness", lambda images, _: [np.asarray(image)[..., 0].mean() for image in images], __file__)
    cache([GeneratedImage(png(colour), {}) for colour in COLOURS])
    with pytest.raises(KeyError), WorkCache("crawl-s", a=1) as work:
        for file in source.iterdir():
            (work.folder / file.name).write_bytes(file.read_bytes())
        write_features(work.folder / "train-000000.parquet", ["a"], {"simple": np.ones((1, 4, 8), np.float16)})
        checkpoint.save_checkpoint(work, {"model": torch.nn.Linear(3, 3)}, step=1)
        raise KeyError
    assert find_corrupt_work(work_dir()) == []
    files = sorted(work.folder.iterdir())
    for file in files:
        flip(file, 400)
    with sqlite3.connect(cache.file) as table:
        key, row = table.execute("SELECT key, numbers FROM measurements").fetchone()
        table.execute("UPDATE measurements SET numbers = ? WHERE key = ?", (bytes([row[0] ^ 1]) + row[1:], key))
    assert find_corrupt_work(work_dir()) == [*files, cache.file]


STAGES = {
    "one": {
        "cmd": "mkdir -p d && cat a > d/x && cat a a > d/y && cat a a a > d/z",
        "deps": ["a"],
        "outs": ["d"],
    },
    "two": {"cmd": "cat d/x d/y > e; cat d/z > f", "deps": ["d"], "outs": ["e", {"f": {"cache": False}}]},
}


def verify(folder: Path) -> tuple[int, str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    result = subprocess.run([sys.executable, "-m", "stages", "verify"], cwd=folder, env=env, capture_output=True, text=True)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, result.stdout + result.stderr


def test_verify_names_corrupt_files_that_dvc_misses_and_its_command_restores_them_even_if_the_cache_is_corrupt(tmp_path, own_work):
    run(tmp_path, "git", "init", "-q")
    run(tmp_path, "dvc", "init", "-q")
    (tmp_path / "a").write_text("a text\n")
    (tmp_path / "params.yaml").touch()
    save_checked({"w": torch.ones(9)}, tmp_path / "w.safetensors")
    YAML().dump({"stages": STAGES}, tmp_path / "dvc.yaml")
    run(tmp_path, "dvc", "repro", "-q")
    run(tmp_path, "git", "add", "-A")
    run(tmp_path, "git", "commit", "-qm", "ran")
    status, output = verify(tmp_path)
    assert status == 0 and "files are intact" in output
    before = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file() and ".dvc/tmp" not in str(f) and ".git/" not in str(f)}
    cached = {f.read_bytes(): f for f in (tmp_path / ".dvc/cache/files").rglob("*") if f.is_file()}
    broken = [tmp_path / name for name in ("d/x", "e", "f", "w.safetensors")]
    broken += [
        cached[(tmp_path / name).read_bytes()] for name in ("d/x", "d/y", "e")
    ]  # d/x and e in both places, d/y only in the cache, f only outside
    for file in broken:
        flip(file)
    assert "up to date" in run(tmp_path, "dvc", "status"), "size and time are unchanged"
    status, output = verify(tmp_path)
    named = {line.removesuffix(" is corrupt") for line in output.splitlines() if line.endswith(" is corrupt")}
    assert status == 1 and {tmp_path / name for name in named} == set(broken)
    run(tmp_path, "bash", "-c", output.rpartition("restore them with `")[2].rpartition("`")[0])
    assert {f: f.read_bytes() for f in before} == before and verify(tmp_path)[0] == 0
    assert run(tmp_path, "git", "status", "--short") == ""
