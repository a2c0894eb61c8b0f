"""Kills `dvc repro TARGET…` and restarts it until it is done, then starts over, for a number of kills.

Of ten kills, eight hit DVC and its stage, one the stage alone, and one DVC alone, so that its stage runs concurrently with the next one.
Lock files that DVC can no longer read are counted and removed, as docs/troubleshooting.md says.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import psutil
from helpers.repository import ran, run

from chaos import changed_files, files, leftovers

KINDS = ("both",) * 8 + ("stage", "dvc")


class DvcKiller:
    def __init__(self, folder: Path, work: Path, seed: int, targets: tuple[str, ...]):
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.folder, self.work, self.log = folder, work, folder.parent / "log"
        self.command, self.random, self.killed = ("dvc", "repro", *targets), Random(seed), Counter()
        self.reset()
        start = time.monotonic()
        stages = ran(run(folder, *self.command))
        self.longest = 1.5 * (time.monotonic() - start) / len(stages)
        self.expected = files(folder)
        self.check_files()

    def reset(self) -> None:
        """Removes all outs, caches and locks, and the finished scores of the work cache."""
        for name in ("data", "models/adapter", "reports", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for folder in self.work.glob("score-*/"):
            shutil.rmtree(folder)
        run(self.folder, "git", "checkout", "-q", "data")
        (self.folder / "dvc.lock").unlink(missing_ok=True)

    def run(self, kills: int) -> None:
        while sum(self.killed[kind] for kind in KINDS[-3:]) < kills:
            self.start_and_kill()
            print(dict(self.killed), flush=True)
        run(self.folder, *self.command)
        self.check_files()

    def start_and_kill(self) -> None:
        """Starts DVC and kills it at a random moment, unless all is done before."""
        with self.log.open("w") as log:
            process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(self.random.uniform(0, self.longest))
        except subprocess.TimeoutExpired:
            self.kill(process)
        else:
            self.check_end(process.returncode)

    def kill(self, process: subprocess.Popen) -> None:
        kind, stage = self.random.choice(KINDS), psutil.Process(process.pid).children(recursive=True)[-1:]
        if kind == "stage" and stage:
            stage[0].kill()
        elif kind == "dvc":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self.killed[kind] += 1
        changed = changed_files(self.folder, self.expected)
        assert kind == "dvc" or not changed, changed

    def check_end(self, status: int) -> None:
        """Allows the known ends: all is done; DVC cannot read its own lock; a stage of a killed DVC still runs."""
        output = self.log.read_text()
        if status == 0:
            self.check_files()
            self.reset()
            self.killed["complete runs"] += 1
        elif "RWLock-file" in output:
            (self.folder / ".dvc/tmp/rwlock").unlink()
            self.killed["DVC's rwlock was broken"] += 1
        else:
            self.killed["a stage still ran"] += 1
            assert self.killed["a stage still ran"] <= 3 * self.killed["dvc"], output[-3000:]
            time.sleep(5)

    def check_files(self) -> None:
        assert files(self.folder) == self.expected, changed_files(self.folder, self.expected)
        assert not leftovers(self.folder, self.work), leftovers(self.folder, self.work)
