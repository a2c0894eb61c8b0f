"""Kills the whole small DAG at random moments, again and again, and looks at what is left.

    python -m tests.chaos KILLS SEED [SECONDS]      # 100 kills: an hour or two on two cores; SECONDS: not longer than that

Of ten kills eight hit DVC and its stage at once, one the stage alone, one DVC alone, whose stage then runs on beside the next start's.
After each, no file may lie half done under a final name; whenever all stages are through, every file must be that of the run left in peace,
and everything begins anew. What DVC itself is left unable to read is counted and removed, as docs/troubleshooting.md says.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' helpers stand beside one another

import psutil  # noqa: E402
from repository import copy, ran, run  # noqa: E402

from chaos import SMALL, files, half, left  # noqa: E402

KINDS = ("both",) * 8 + ("stage", "dvc")


class Storm:
    def __init__(self, home: Path, seed: int):
        self.folder, self.log, self.work = copy(_new(home / "project"), "miniature", SMALL), home / "log", home / "work"
        os.environ |= {"SUR_WORK": str(self.work), "DVC_NO_ANALYTICS": "1", "TQDM_DISABLE": "1"}
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.random, self.killed, self.passes, self.mended = Random(seed), Counter(), 0, Counter()
        self.afresh()
        start = time.monotonic()
        run(self.folder, "dvc", "repro")
        self.seconds, self.peace = time.monotonic() - start, files(self.folder)
        assert not left(self.folder, self.work)
        self.afresh()

    def afresh(self) -> None:
        """As nothing was ever run."""
        for name in ("data", "models/adapter", "reports", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        run(self.folder, "git", "checkout", "-q", "data")
        (self.folder / "dvc.lock").unlink(missing_ok=True)

    def strike(self) -> None:
        """One start, and a kill at some moment, unless all is done before."""
        with self.log.open("w") as log:
            process = subprocess.Popen(["dvc", "repro"], cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(self.random.uniform(0, self.seconds / 7))
        except subprocess.TimeoutExpired:
            self.kill(process)
        else:
            self.ended(process.returncode)

    def kill(self, process: subprocess.Popen) -> None:
        kind, stage = self.random.choice(KINDS), psutil.Process(process.pid).children(recursive=True)[-1:]
        if kind == "stage" and stage:
            stage[0].kill()
        elif kind == "dvc":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        at = sorted(ran(self.log.read_text()), key=self.log.read_text().rindex)[-1:]
        self.killed[at[0].split("@")[0] if at else "between"] += 1
        assert kind == "dvc" or not half(self.folder, self.peace), half(self.folder, self.peace)

    def ended(self, status: int) -> None:
        said = self.log.read_text()
        if status == 0:
            self.calm()
            self.passes += 1
            self.afresh()
        elif "RWLock-file" in said:
            (self.folder / ".dvc/tmp/rwlock").unlink()
            self.mended["DVC's rwlock"] += 1
        elif "dvc.lock" in said and "corrupt" in said:
            (self.folder / "dvc.lock").unlink()
            self.mended["dvc.lock"] += 1
        else:
            self.mended["started again beside a stage that ran on"] += 1
            assert self.mended.total() < 5 + self.killed.total() / 3, said[-3000:]
            time.sleep(5)

    def calm(self) -> None:
        assert files(self.folder) == self.peace, half(self.folder, self.peace)
        assert not left(self.folder, self.work), left(self.folder, self.work)

    def told(self) -> str:
        return f"{self.killed.total()} kills, {self.passes} times through all stages; {dict(self.killed)}; mended {dict(self.mended)}"


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def main(kills: int, seed: int, seconds: float = float("inf")) -> None:
    with tempfile.TemporaryDirectory(prefix="sur-chaos-") as home:
        storm, end = Storm(Path(home), seed), time.monotonic() + seconds
        while storm.killed.total() < kills and time.monotonic() < end:
            storm.strike()
            print(storm.told(), flush=True)
        run(storm.folder, "dvc", "repro")
        storm.calm()
        print(f"{storm.told()}: the outs are those of a run left in peace")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
