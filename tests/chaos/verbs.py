"""The stages of a copy of the project one after the other, as DVC runs them, each in a process that may be killed."""

import multiprocessing
import os
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

from dvc.repo import Repo
from networkx import dfs_postorder_nodes

from chaos import files, half, left
from stages.__main__ import VERBS, main

server = multiprocessing.get_context("forkserver")  # imports once what is to be killed again and again
FEATURES = [f"sur_adapter.features.extractors.{name}" for name in ("clip", "llm", "queries", "vae")]
OTHERS = [
    "sur_adapter.models.captioner",
    "sur_adapter.data.scores.clip",
    "sur_adapter.evaluation.judges.pictograms",
    "sur_adapter.data.sources.miniature",
]
server.set_forkserver_preload([*(f"stages.{verb}" for verb in VERBS), *FEATURES, *OTHERS])


def run(folder: str, work: str, words: list[str]) -> None:
    os.chdir(folder)
    os.environ |= {"SUR_WORK": work, "TQDM_DISABLE": "1"}
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - to the end of the process
    main(words)


class Verbs:
    """leave: lanes that are not run, of those that nothing else needs."""

    def __init__(self, folder: Path, work: Path, seed: int, leave: tuple[str, ...] = ()):
        self.folder, self.work, self.random, self.killed = folder, work, Random(seed), Counter()
        with Repo(str(folder)) as repo:
            stages = [s for s in dfs_postorder_nodes(repo.index.graph) if Path(s.path) == folder / "dvc.yaml" and s.name not in leave]
            self.stages = {s.name: (s.cmd.split()[3:], [Path(out.fs_path) for out in s.outs]) for s in stages}
        self.afresh()
        self.seconds = {name: self.through(name) for name in self.stages}
        self.peace = files(folder)
        self.afresh()

    def afresh(self) -> None:
        for _, outs in self.stages.values():
            self._remove(outs)

    def _remove(self, outs: list[Path]) -> None:
        for out in outs:
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)

    def start(self, name: str) -> multiprocessing.Process:
        words, outs = self.stages[name]
        self._remove(outs)  # as DVC does
        process = server.Process(target=run, args=(str(self.folder), str(self.work), words))
        process.start()
        return process

    def through(self, name: str) -> float:
        begin, process = time.monotonic(), self.start(name)
        process.join()
        assert process.exitcode == 0, name
        return time.monotonic() - begin

    def strike(self, name: str) -> None:
        """A start, and a kill at some moment of it; one that comes too late is none."""
        process = self.start(name)
        process.join(self.random.uniform(0, self.seconds[name]))
        process.kill()
        process.join()
        self.killed[name] += process.exitcode == -9
        assert not half(self.folder, self.peace), half(self.folder, self.peace)

    def storm(self, kills: int) -> None:
        """All stages in order, each killed as often as the lot says, then let to its end; the bytes must be those of peace."""
        lots = Counter(self.random.choices(list(self.stages), k=kills))
        for name in self.stages:
            goal = self.killed[name] + lots[name]
            while self.killed[name] < goal:
                self.strike(name)
            self.through(name)
        assert files(self.folder) == self.peace, half(self.folder, self.peace)
        assert not left(self.folder, self.work), left(self.folder, self.work)
