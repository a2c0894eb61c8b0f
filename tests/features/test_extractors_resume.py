"""An extractor that was killed resumes after its last finished shard, and reuses no shard of other pairs, settings or weights."""

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
from sur_adapter.io import schema
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

def extract_all(out, moment):
    def counted(*paths):  # os.replace puts a finished file in its place: a shard, an output
        nonlocal moment
        moment -= 1
        if moment == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths)

    os.replace = counted
    for name in ("clip", "llm", "vae"):
        here, done = Path(out, name), Path(out + "-done", name)
        if not done.exists():
            shutil.rmtree(here, ignore_errors=True)  # as DVC does before it runs a stage
            main(["cache", "--features", name, "--pairs", "pairs.parquet", "--raw", "raw", "--out", str(here)])
            done.mkdir(parents=True)

for line in sys.stdin:
    if not (child := os.fork()):
        extract_all(line.split()[0], int(line.split()[1]))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)"""


@pytest.fixture
def extract_all(tmp_path, models):
    """Runs the three extractors in a process of their own and returns its exit code. It is killed before the nth os.replace; 0: never."""
    env = os.environ | {"SUR_PARAMS": "params.yaml", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes, folder = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}, tiny.home(tmp_path / "home", models)
    with subprocess.Popen([sys.executable, "-c", CODE], cwd=folder, env=env, **pipes) as process:

        def run(out: str, moment: int) -> int:
            process.stdin.write(f"{out} {moment}\n")
            process.stdin.flush()
            while not (line := process.stdout.readline()).strip().lstrip("-").isdigit():  # a stage says what it does
                assert line, "the process has ended"
            return int(line)

        yield run
        process.stdin.close()


@pytest.mark.parametrize("seed", range(int(os.environ.get("SUR_KILLS", "1"))))
def test_killed_extractors_give_the_same_bytes_in_the_end_and_compute_no_shard_twice(tmp_path, extract_all, seed):
    folder = tmp_path / "home"
    assert extract_all("undisturbed", 0) == 0
    expected, random, finished = digest(folder / "undisturbed"), Random(seed), set()
    assert len(expected) == 3 * 14
    for _ in range(3):
        assert extract_all("killed", random.randrange(1, 28)) == -9
        now = {f.stat().st_ino for f in work_dir().glob("cache-*/*.parquet")} | {
            f.stat().st_ino for f in (folder / "killed").rglob("*.parquet")
        }
        assert finished <= now, "finished shards are not computed again"
        finished = now
    assert finished and extract_all("killed", 0) == 0
    assert digest(folder / "killed") == expected
    assert finished <= {f.stat().st_ino for f in (folder / "killed").rglob("*.parquet")}
    assert not [f for f in work_dir().iterdir() if f.is_dir()]


def test_shards_of_other_pairs_settings_or_weights_are_not_reused(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs()
    monkeypatch.setattr("sur_adapter.io.work_cache.WorkCache.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    other = models | {"llm": tiny.llm(tmp_path / "other", "Llama")}
    weights = Path(other["llm"]) / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-100:] = bytes(100)
    other_prompts = rows.assign(simple_prompt="one sentence for all")
    runs = [(rows, models, {}), (rows, models, {"max_tokens_per_batch": 64}), (other_prompts, models, {}), (rows, other, {})]
    for count, (pairs, llms, options) in enumerate(runs, 1):
        with pytest.raises(KeyboardInterrupt):
            tiny.extract("llm", pairs, tmp_path / "llm", llms, layers=[4], **options)
        assert len(list(work_dir().glob("cache-*/"))) == count
    weights.write_bytes(changed)
    with pytest.raises(KeyboardInterrupt):
        tiny.extract("llm", rows, tmp_path / "llm", other, layers=[4])
    assert len(list(work_dir().glob("cache-*/"))) == 5


def test_a_finished_shard_that_became_corrupt_is_computed_again(tmp_path, models, monkeypatch):
    rows, _ = tiny.pairs()
    monkeypatch.setattr(schema, "ROWS_PER_SHARD", 3)
    tiny.extract("clip", rows, tmp_path / "undisturbed/clip", models)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("sur_adapter.io.work_cache.WorkCache.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        tiny.extract("clip", rows, tmp_path / "clip", models)
    (corrupt, *_) = sorted(work_dir().glob("cache-*/*.parquet"))
    os.truncate(corrupt, corrupt.stat().st_size // 2)
    tiny.extract("clip", rows, tmp_path / "clip", models)
    assert digest(tmp_path / "clip") == digest(tmp_path / "undisturbed/clip")


def test_shards_of_an_earlier_run_with_more_pairs_are_removed(tmp_path, models, monkeypatch):
    monkeypatch.setattr(schema, "ROWS_PER_SHARD", 3)
    for count in (24, 8):
        rows, _ = tiny.pairs(count)
        tiny.extract("clip", rows, tmp_path / "clip", models)
    assert len(FeatureStore(tmp_path / "clip")) == 8
