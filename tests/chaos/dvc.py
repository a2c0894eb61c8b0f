"""`dvc repro` at some targets, killed and started again until all is done, again and again from the start.

Of ten kills eight hit DVC and its stage at once, one the stage alone, one DVC alone, whose stage then runs on beside the next start's.
What DVC itself is left unable to read is counted and removed, as docs/troubleshooting.md says.
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

from chaos import files, half, left

KINDS = ("both",) * 8 + ("stage", "dvc")


class Dvc:
    def __init__(self, folder: Path, work: Path, seed: int, targets: tuple[str, ...]):
        os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.folder, self.work, self.log = folder, work, folder.parent / "log"
        self.command, self.random, self.killed = ("dvc", "repro", *targets), Random(seed), Counter()
        self.afresh()
        start = time.monotonic()
        stages = ran(run(folder, *self.command))
        self.longest = 1.5 * (time.monotonic() - start) / len(stages)
        self.peace = files(folder)
        self.calm()

    def afresh(self) -> None:
        """As nothing was ever run."""
        for name in ("data", "models/adapter", "reports", ".dvc/cache", ".dvc/tmp"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        run(self.folder, "git", "checkout", "-q", "data")
        (self.folder / "dvc.lock").unlink(missing_ok=True)

    def storm(self, kills: int) -> None:
        while sum(self.killed[kind] for kind in KINDS[-3:]) < kills:
            self.strike()
            print(dict(self.killed), flush=True)
        run(self.folder, *self.command)
        self.calm()

    def strike(self) -> None:
        """A start, and a kill at some moment of it, unless all is done before."""
        with self.log.open("w") as log:
            process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(self.random.uniform(0, self.longest))
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
        self.killed[kind] += 1
        assert kind == "dvc" or not half(self.folder, self.peace), half(self.folder, self.peace)

    def check_end_of_archive(self, status: int) -> None:
        """Known ends: all is done; DVC cannot read what it wrote itself; a stage of a DVC that was killed runs on."""
        said = self.log.read_text()
        if status == 0:
            self.calm()
            self.afresh()
            self.killed["times through"] += 1
        elif "RWLock-file" in said:
            (self.folder / ".dvc/tmp/rwlock").unlink()
            self.killed["DVC's rwlock was broken"] += 1
        else:
            self.killed["a stage ran on"] += 1
            assert self.killed["a stage ran on"] <= 3 * self.killed["dvc"], said[-3000:]
            time.sleep(5)

    def calm(self) -> None:
        assert files(self.folder) == self.peace, half(self.folder, self.peace)
        assert not left(self.folder, self.work), left(self.folder, self.work)
