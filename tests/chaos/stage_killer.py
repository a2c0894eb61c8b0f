"""Runs the stages of a copy of the project in DVC's order, each in a process that may be killed."""

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

from chaos import changed_files, files, leftovers
from stages.__main__ import STAGES, main

server = multiprocessing.get_context("forkserver")  # imports the modules once for all processes
EXTRACTORS = [f"sur_adapter.features.extractors.{name}" for name in ("clip", "llm", "queries", "sentences", "vae")]
PLUG_INS = ["sur_adapter.data.scores.clip", "sur_adapter.evaluation.judges.pictograms", "sur_adapter.data.sources.miniature"]
PLUG_INS += ["sur_adapter.data.sentences.miniature", "sur_adapter.models.captioner"]
server.set_forkserver_preload([*(f"stages.{stage}" for stage in STAGES), *EXTRACTORS, *PLUG_INS])


def run_command(folder: str, work: str, arguments: list[str]) -> None:
    os.chdir(folder)
    os.environ |= {"SUR_WORK": work, "TQDM_DISABLE": "1"}
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    main(arguments)


class StageKiller:
    """Runs all stages once without kills to get the expected files."""

    def __init__(self, folder: Path, work: Path, seed: int):
        self.folder, self.work, self.random, self.killed = folder, work, Random(seed), Counter()
        with Repo(str(folder)) as repo:
            stages = [s for s in dfs_postorder_nodes(repo.index.graph) if Path(s.path) == folder / "dvc.yaml"]
            self.stages = {s.name: (s.cmd.split()[3:], [Path(out.fs_path) for out in s.outs]) for s in stages}
        self.remove_all_outs()
        self.seconds = {name: self.finish(name) for name in self.stages}
        self.expected = files(folder)
        self.remove_all_outs()

    def remove_all_outs(self) -> None:
        for _, outs in self.stages.values():
            self._remove(outs)
        self._remove_finished_scores()

    def _remove_finished_scores(self) -> None:
        """Makes a score compute again: the stage keeps its results in the work cache."""
        self._remove([folder for folder in self.work.glob("score-*") if folder.is_dir()])

    def _remove(self, outs: list[Path]) -> None:
        for out in outs:
            shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)

    def start(self, name: str) -> multiprocessing.Process:
        arguments, outs = self.stages[name]
        self._remove(outs)  # as DVC does
        process = server.Process(target=run_command, args=(str(self.folder), str(self.work), arguments))
        process.start()
        return process

    def finish(self, name: str) -> float:
        """Runs a stage to its end and returns the seconds it took."""
        begin, process = time.monotonic(), self.start(name)
        process.join()
        assert process.exitcode == 0, name
        return time.monotonic() - begin

    def start_and_kill(self, name: str) -> None:
        """Starts a stage and kills it at a random moment; a stage that ended before is not counted."""
        process = self.start(name)
        process.join(self.random.uniform(0, self.seconds[name]))
        process.kill()
        process.join()
        self.killed[name] += process.exitcode == -9
        if process.exitcode == 0 and name == "score":
            self._remove_finished_scores()
        changed = changed_files(self.folder, self.expected)
        assert not changed, changed

    def run(self, kills: int) -> None:
        """Runs all stages in order with `kills` kills spread over them at random, and compares the files with the expected ones."""
        kills_by_stage = Counter(self.random.choices(list(self.stages), k=kills))
        for name in self.stages:
            goal = self.killed[name] + kills_by_stage[name]
            while self.killed[name] < goal:
                self.start_and_kill(name)
            self.finish(name)
        assert files(self.folder) == self.expected, changed_files(self.folder, self.expected)
        assert not leftovers(self.folder, self.work), leftovers(self.folder, self.work)
