"""A lane of the cache that is killed goes on after its last finished shard, and takes up no work of other pairs, settings or weights."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from helpers import tiny_models as tiny
from helpers.repository import ROOT
from helpers.small_models import digest

from sur_adapter.features.store import FeatureStore
from sur_adapter.io import schema as records
from sur_adapter.io.work_cache import work_dir

pytestmark = pytest.mark.usefixtures("own_work")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    return tiny.models(tmp_path_factory.mktemp("models"))


CODE = """import os, shutil, signal, sys
from pathlib import Path
import sur_adapter.io.schema
from stages.__main__ import main
from sur_adapter.features.extractors import clip, llm, vae  # before the forks

sur_adapter.io.schema.ROWS_PER_SHARD, replace = 3, os.replace

def lanes(out, moment):
    def counted(*paths):  # a file takes its place: a shard's, an out's
        nonlocal moment
        moment -= 1
        if moment == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = counted
    for lane in ("clip", "llm", "vae"):
        here, done = Path(out, lane), Path(out + "-done", lane)
        if not done.exists():
            shutil.rmtree(here, ignore_errors=True)  # as DVC does with a stage that did not end
            main(["cache", "--features", lane, "--pairs", "pairs.parquet", "--raw", "raw", "--out", str(here)])
            done.mkdir(parents=True)

for line in sys.stdin:
    if not (child := os.fork()):
        lanes(line.split()[0], int(line.split()[1]))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)"""


@pytest.fixture
def end(tmp_path, models):
    """How the three lanes end, each time in a process of its own, killed just before a file takes its place for the nth time; 0: never."""
    env = os.environ | {"SUR_PARAMS": "params.yaml", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes, folder = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}, tiny.home(tmp_path / "home", models)
    with subprocess.Popen([sys.executable, "-c", CODE], cwd=folder, env=env, **pipes) as process:

        def ask(out: str, moment: int) -> int:
            process.stdin.write(f"{out} {moment}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_lanes_killed_at_any_moment_end_in_the_bytes_of_those_left_in_peace_and_make_nothing_twice(tmp_path, end, seed):
    folder = tmp_path / "home"
    assert end("peace", 0) == 0
    peace, random, kept = digest(folder / "peace"), Random(seed), set()
    assert len(peace) == 3 * 14
    for _ in range(3):
        assert end("killed", random.randrange(1, 28)) == -9
        now = {f.stat().st_ino for f in work_dir().glob("cache-*/*.parquet")} | {
            f.stat().st_ino for f in (folder / "killed").rglob("*.parquet")
        }
        assert kept <= now, "what was finished is not made again"
        kept = now
    assert kept and end("killed", 0) == 0
    assert digest(folder / "killed") == peace
    assert kept <= {f.stat().st_ino for f in (folder / "killed").rglob("*.parquet")}
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


def test_work_of_other_pairs_settings_or_weights_is_not_taken_up(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs()
    monkeypatch.setattr("sur_adapter.io.work_cache.WorkCache.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    other = models | {"llm": tiny.llm(tmp_path / "other", "Llama")}
    weights = Path(other["llm"]) / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-100:] = bytes(100)
    worded = rows.assign(simple_prompt="one sentence for all")
    tries = [(rows, models, {}), (rows, models, {"max_tokens_per_batch": 64}), (worded, models, {}), (rows, other, {})]
    for count, (pairs, llms, options) in enumerate(tries, 1):
        with pytest.raises(KeyboardInterrupt):
            tiny.extract("llm", pairs, tmp_path / "llm", llms, layers=[4], **options)
        assert len(list(work_dir().glob("cache-*/"))) == count
    weights.write_bytes(changed)
    with pytest.raises(KeyboardInterrupt):
        tiny.extract("llm", rows, tmp_path / "llm", other, layers=[4])
    assert len(list(work_dir().glob("cache-*/"))) == 5


def test_a_finished_shard_that_the_disk_has_spoilt_is_made_again(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs()
    monkeypatch.setattr(records, "ROWS_PER_SHARD", 3)
    tiny.extract("clip", rows, tmp_path / "peace/clip", models)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("sur_adapter.io.work_cache.WorkCache.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        tiny.extract("clip", rows, tmp_path / "clip", models)
    (spoilt, *_) = sorted(work_dir().glob("cache-*/*.parquet"))
    os.truncate(spoilt, spoilt.stat().st_size // 2)
    tiny.extract("clip", rows, tmp_path / "clip", models)
    assert digest(tmp_path / "clip") == digest(tmp_path / "peace/clip")


def test_fewer_pairs_leave_no_shard_of_more(tmp_path, models, monkeypatch):
    monkeypatch.setattr(records, "ROWS_PER_SHARD", 3)
    for count in (24, 8):
        rows, _ = tiny.pairs(count)
        tiny.extract("clip", rows, tmp_path / "clip", models)
    assert len(FeatureStore(tmp_path / "clip")) == 8
