"""One run of an ablation: its params.yaml, the commands that it needs, and what decides whether it has to run again.

A run starts from the features in data/features. Its files are in data/ablations/<row>-s<seed>; what several runs need is made once beside
them: features that differ from those of data/features, and the images of the arms without the adapter.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from filelock import FileLock
from ruamel.yaml import YAML

from experiments.ablations.rows import Row
from sur_adapter.io.atomic import atomic_write
from sur_adapter.io.hashing import file_digest, folder_digest, short_digest

FOLDER = Path("data/ablations")
FEATURES, PAIRS, SENTENCES = Path("data/features"), Path("data/pairs.parquet"), Path("data/sentences.parquet")
FUNNEL = "reports/funnel.json"
DATA = ("sources", "caption", "scores", "filter")  # sections that decide the pairs
READ = ("models", "cache", "sentences", "adapter", "loss", "train", "generate", "evaluate")  # sections that a run depends on
PARTS = {  # features that a row can change: the keys of params.yaml that they depend on
    "sentences": ("models", "sentences", "cache.sentences", "cache.llm", "loss.llm"),
    "llm": ("models", "cache.llm", "loss.llm"),
    "vae": ("models", "cache.vae", "loss.w_diffusion"),
}
PARAMS_VARIABLES = {"miniature.pretrain": "MINIATURE_PARAMS"}  # module: environment variable of its params file, if not SUR_PARAMS
WITHOUT, WITH, REWRITE = ("baseline", "complex"), ("adapter", "complex_adapter"), ("rewrite",)  # arms


class CommandError(Exception):
    """A command of a run failed. Its text names the command and has the last lines of its output."""


Execute = Callable[[list[str], Path, Path], None]  # (words after `python -m MODULE`, params.yaml, log); raises CommandError


class Processes:
    """Runs the commands of several runs in processes with `threads` threads each. `stop` ends them, and no other starts.

    module: whose commands.
    """

    def __init__(self, threads: int, module: str = "stages"):
        self.environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        self.module, self.variable = module, PARAMS_VARIABLES.get(module, "SUR_PARAMS")
        self.running: set[subprocess.Popen] = set()
        self.stopped = False

    def __call__(self, words: list[str], params: Path, log: Path) -> None:
        if self.stopped:
            raise CommandError("stopped")
        with log.open("ab") as output:
            command, environment = [sys.executable, "-m", self.module, *words], self.environment | {self.variable: str(params)}
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            self.running.add(process)
            code = process.wait()
            self.running.discard(process)
        if code:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-12:]
            raise CommandError("\n".join([f"`{self.module} {words[0]}` ended with {code}; the last lines of {log}:", *lines]))

    def stop(self) -> None:
        self.stopped = True
        for process in list(self.running):
            process.terminate()


@dataclass
class Workspace:
    """The finished run of DVC that the ablations start from: params: of params.yaml; data: digest of its features.

    Raises FileNotFoundError if there are no features.
    """

    params: dict = field(default_factory=lambda: YAML(typ="safe").load(Path("params.yaml")))
    data: str = field(default_factory=lambda: data_digest())

    @cached_property
    def is_up_to_date(self) -> bool:
        """Whether the outs of `dvc repro` belong to the present params, code and data."""
        command = [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", "evaluate"]
        status = subprocess.run(command, capture_output=True, text=True, check=False)
        return not status.returncode and json.loads(status.stdout) == {}

    @property
    def settings(self) -> str:
        """The digest of all that every run depends on, without what a row changes."""
        return digest([_read_sections(self.params), self.data])

    @property
    def all_params(self) -> str:
        """The digest of the params that every run and its features depend on, without what a row changes."""
        return digest([{name: self.params.get(name) for name in (*DATA, *READ)}])


def data_digest() -> str:
    """Returns the digest of the manifests of the cached pairs and sentences, which hold digests of all values, and of the query bank."""
    if not any((FEATURES / "clip").glob("*.parquet")):
        raise FileNotFoundError(f"{FEATURES / 'clip'} holds no features: run `dvc repro` first; the ablations start from its features")
    files = [file for part in ("clip", "sentences") for file in sorted((FEATURES / part).glob("*-[0-9]*.parquet"))]
    manifests = [(file.name, (pq.read_metadata(file).metadata or {}).get(b"manifest", b"")) for file in files]
    return short_digest(*(chunk for name, manifest in manifests for chunk in (name, manifest)), folder_digest(FEATURES / "queries", "*"))


@dataclass(frozen=True)
class Run:
    """A training of a row with one seed, in a workspace."""

    name: str
    row: Row
    seed: int
    workspace: Workspace

    @property
    def is_of_pipeline(self) -> bool:
        """Whether the finished `dvc repro` is this run."""
        return _read_sections(self.params) == _read_sections(self.workspace.params) and self.workspace.is_up_to_date

    @property
    def folder(self) -> Path:
        return FOLDER / f"{self.name}-s{self.seed}"

    @property
    def adapter(self) -> Path:
        """The folder of the trained adapter."""
        return Path("models/adapter") if self.is_of_pipeline else self.folder / "adapter"

    @property
    def reports(self) -> Path:
        """The folder of metrics.json and judgements.parquet."""
        return Path("reports") if self.is_of_pipeline else self.folder / "reports"

    @property
    def params(self) -> dict:
        """Returns the workspace's params with what the row changes. Raises ValueError for a key that they lack."""
        values = deepcopy(self.workspace.params) | {"executor": {"kind": "inline"}}  # several runs share the cores already
        for key, value in (self.row.shared | self.row.changes | {"train.seed": self.seed}).items():
            *parents, last = key.removeprefix("+").split(".")
            section = values
            for name in parents:
                section = section.get(name, {})
            if last not in section and not key.startswith("+"):
                raise ValueError(f"params.yaml has no key {key}, which the row {self.name} changes: correct experiments/ablations/rows.py")
            section[last] = value
        return values

    @property
    def settings(self) -> str:
        """The digest of all that the run's figures depend on, but for the code."""
        return digest([_read_sections(self.params), self.workspace.data, prompts_digest(self.params), *self._teacher()])

    def _teacher(self) -> list[str]:
        """Returns the digest of the file of sentences with ready answers, if the params name one."""
        file = _at(self.params, "sentences.sources.file.path")
        return [file_digest(Path(file))] if file else []

    def execute(self, execute: Execute) -> dict:
        """Trains, generates and measures. Returns the metrics of metrics.json, and as `training` the last row of the training's history.

        The run of the pipeline has these figures already. Raises CommandError.
        """
        if self.is_of_pipeline:
            return _figures(self.reports, self.reports / "train/history.json")
        params, here = self.params, self.folder
        shutil.rmtree(here, ignore_errors=True)  # an unfinished training is in the work cache
        file = write_params(here, params)
        log, adapter, history = here / "log.txt", here / "adapter", here / "train/history.json"
        paths = {"clip": FEATURES / "clip", "queries": FEATURES / "queries"} | {part: self.features(part, execute) for part in PARTS}
        execute(["train", *option_words(paths | {"out": adapter, "reports": history.parent})], file, log)
        self._measure(here, file, adapter, history, WITHOUT, execute)
        return _figures(self.reports, history)

    def measure_on(self, prompts: str, execute: Execute) -> Path:
        """Generates and judges all arms on other prompts, once. Returns the folder with judgements.parquet. Raises CommandError."""
        other = replace(self, row=replace(self.row, changes=self.row.changes | {"generate.prompts": prompts, "evaluate.clip": None}))
        adapter, history = self.adapter, (Path("reports") if self.is_of_pipeline else self.folder) / "train/history.json"
        arms = (*WITHOUT, *(REWRITE if self.params["models"]["llm"] else ()))

        def compute(folder: Path, file: Path) -> None:
            other._measure(folder, file, adapter, history, arms, execute)

        weights = folder_digest(adapter, "*.safetensors")
        return other._once("measured", [other.settings, weights, arms], compute) / "reports"

    def _measure(self, here: Path, file: Path, adapter: Path, history: Path, without: tuple[str, ...], execute: Execute) -> None:
        """Generates the arms with the adapter, takes those without from where all runs have them, and judges them, into here/reports."""
        prompts, images, log = {"prompts": self.params["generate"]["prompts"]}, here / "images", here / "log.txt"
        shared = self._images_without_adapter(without, execute)
        execute(["generate", "--arms", *WITH, *option_words(prompts | {"out": images, "adapter": adapter})], file, log)
        for arm in without:
            shutil.copytree(shared / arm, images / arm, copy_function=os.link)
        paths = prompts | {"images": images, "funnel": FUNNEL, "history": history, "adapter": adapter, "out-dir": here / "reports"}
        execute(["evaluate", *option_words(paths)], file, log)

    def features(self, part: str, execute: Execute) -> Path:
        """Returns the folder of features that the run reads; computes them if its settings differ from the workspace's."""
        own, base = ([_at(params, key) for key in PARTS[part]] for params in (self.params, self.workspace.params))
        if own == base:
            return FEATURES / part

        def compute(folder: Path, file: Path) -> None:
            log, table = folder / "log.txt", SENTENCES
            if part != "sentences":
                options = {"pairs": PAIRS, "raw": "data/raw"}
            else:
                if self.params["sentences"] != self.workspace.params["sentences"]:
                    table = folder / "sentences.parquet"
                    execute(["sentences", *option_words({"pairs": PAIRS, "out": table, "report": folder / "sentences.json"})], file, log)
                options = {"sentences": table}
            execute(["cache", *option_words({"features": part} | options | {"out": folder / part})], file, log)

        return self._once(f"features/{part}", [own, self.workspace.data, *self._teacher()], compute) / part

    def _images_without_adapter(self, arms: tuple[str, ...], execute: Execute) -> Path:
        """Returns the folder of the images of `arms`, without the adapter; generates them once for all runs with these settings."""
        params = self.params

        def compute(folder: Path, file: Path) -> None:
            options = {"prompts": params["generate"]["prompts"], "out": folder}
            execute(["generate", "--arms", *arms, *option_words(options)], file, folder / "log.txt")

        return self._once("images", [arms, params["models"], params["generate"], prompts_digest(params)], compute)

    def _once(self, kind: str, inputs: list, compute: Callable[[Path, Path], None]) -> Path:
        """Returns the folder of what several runs need; `compute(folder, params.yaml)` fills it if no run has done so."""
        return once(FOLDER / f"{kind}-{digest(inputs)}", lambda folder: compute(folder, write_params(folder, self.params)))


def once(folder: Path, compute: Callable[[Path], None]) -> Path:
    """Returns a folder that `compute(folder)` fills, unless it is finished. What an unfinished run left in it is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            compute(folder)
            (folder / "done").touch()
    return folder


def _figures(reports: Path, history: Path) -> dict:
    metrics, rows = (json.loads(file.read_text(encoding="utf-8")) for file in (reports / "metrics.json", history))
    return metrics | {"training": rows[-1]}


def write_params(folder: Path, params: dict) -> Path:
    """Writes params.yaml into a folder and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "params.yaml") as part:
        YAML(typ="safe").dump(params, part)
    return folder / "params.yaml"


def option_words(values: Mapping[str, Any]) -> list[str]:
    """Returns the words of options of a command line: --name value …"""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def _read_sections(params: dict) -> dict:
    return {name: params.get(name) for name in READ}


def _at(params: dict, key: str) -> Any:
    """Returns the value of a key, None if it is missing."""
    value: Any = params
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def prompts_digest(params: dict) -> str:
    """Returns the digest of the prompts that images are generated for."""
    path = Path(params["generate"]["prompts"])
    return folder_digest(path, "*.jsonl") if path.is_dir() else file_digest(path)


def digest(values: list) -> str:
    """Returns the short digest of values that JSON can hold."""
    return short_digest(json.dumps(values, sort_keys=True))
