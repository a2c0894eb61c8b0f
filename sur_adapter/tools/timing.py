"""timing: prints what each stage took in its last run: seconds, share of the total, CPU time and peak memory.

`python -m stages STAGE` measures itself and records an entry in reports/timing.json when it has finished; a stage that fails or is killed
changes nothing there. An entry has the name that DVC gives the stage, such as `train` or `cache@clip`: the command is looked up in
dvc.yaml, and one that is not there is not recorded. The file is neither a dep nor an out of DVC, so that it may differ from run to run.
"""

import json
import logging
import os
import platform
import re
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sur_adapter.config import Params
from sur_adapter.io.atomic import atomic_write_text

logger = logging.getLogger(__name__)
STARTED = time.perf_counter()  # when the command line loads this module, a tenth of a second after the start of the process
FILE = Path("reports/timing.json")
FIELDS = {"seconds", "cpu_seconds", "peak_memory_mb", "finished", "machine"}
MACHINE = {"cpu", "cores"}  # two machines with the same values count as one
Timings = dict[str, dict[str, Any]]  # stage, as DVC names it -> FIELDS


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--file", type=Path, default=FILE, help="measurements of the stages (%(default)s)")


def run(args: Namespace, params: Params) -> None:
    print(table(of_pipeline(read_timings(args.file), pipeline_commands(params))))


@contextmanager
def measured(arguments: list[str], description: str, params: Params, file: Path = FILE) -> Iterator[None]:
    """Announces a stage, and records what it took when the block ends without an error; the last stage prints the table of all.

    arguments: of `python -m stages`.
    """
    commands = pipeline_commands(params)
    stage = next((name for name, words in commands.items() if words == arguments), None)
    print(announce(stage or arguments[0], description, _read_or_empty(file)), flush=True)
    yield
    if stage:
        record(stage, usage(), commands, file)
        if stage == list(commands)[-1]:
            print(table(of_pipeline(_read_or_empty(file), commands)))


def usage() -> dict[str, float]:
    """Measures this process since its start, with the processes that it started and waited for.

    Returns wall seconds, CPU seconds of all cores, and the peak memory of the largest process in MB (10⁶ bytes).
    """
    seconds, cpu_seconds = time.perf_counter() - STARTED, sum(os.times()[:4])  # user and system time, of finished children too
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1), "peak_memory_mb": round(_peak_memory() / 1e6)}


def _peak_memory() -> int:
    """Returns bytes. The peak in /proc begins with the program; that of getrusage includes the parent's memory at the fork."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (unit * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    status = Path("/proc/self/status")
    if status.exists() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        own = 1024 * int(peak[1])
    return max(own, children)


def this_machine() -> dict[str, Any]:
    """Names the CPU, the cores that this process may use, the GPU if torch has used it, and torch if it is loaded."""
    torch = sys.modules.get("torch")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None
    return {"cpu": _cpu_name(), "cores": cores, "gpu": gpu, "torch": str(torch.__version__) if torch else None}


def _cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.+)$", file.read_text(), re.M) if file.exists() else None
    return name[1].strip() if name else platform.processor() or platform.machine()


def measured_here(timings: Timings) -> dict[str, float]:
    """Returns stage -> seconds of the stages that were measured on a machine like this one: the same CPU and as many cores."""
    here = this_machine()
    return {name: entry["seconds"] for name, entry in timings.items() if all(entry["machine"][key] == here[key] for key in MACHINE)}


def pipeline_commands(params: Params, file: Path = Path("dvc.yaml")) -> dict[str, list[str]]:
    """Returns stage, as DVC names it -> the arguments of `python -m stages`, in the order of dvc.yaml; {} without a readable dvc.yaml."""
    try:
        stages = YAML(typ="safe").load(file)["stages"]
    except (FileNotFoundError, YAMLError, KeyError, TypeError):
        return {}
    commands = {}
    for stage, body in stages.items():
        items = body.get("foreach", {None: {}})
        if isinstance(items, str):  # ${sources}: the keys of a section of params.yaml
            items = params.raw(items[2:-1], required=False)
        for key, item in items.items() if isinstance(items, dict) else ():
            command = _resolve(body.get("do", body)["cmd"], str(key), item or {}, params)
            commands[stage if key is None else f"{stage}@{key}"] = command.partition(" -m stages ")[2].split()
    return commands


def _resolve(text: str, key: str, item: dict, params: Params) -> str:
    """Fills in `${key}`, `${item.name}` and `${section.key}` of params.yaml, as DVC does."""

    def value(match: re.Match) -> str:
        head, _, name = match[1].partition(".")
        return str(key if head == "key" else item.get(name) if head == "item" else params.raw(match[1], required=False))

    return re.sub(r"\$\{([\w.]+)\}", value, text)


def read_timings(file: Path = FILE) -> Timings:
    """Returns {} if there is no file. Raises ValueError if it cannot be read."""
    try:
        timings = json.loads(file.read_text(encoding="utf-8"))
        complete = (entry.keys() >= FIELDS and entry["seconds"] >= 0 and entry["machine"].keys() >= MACHINE for entry in timings.values())
        if not all(complete):
            raise TypeError("an entry is incomplete")
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is not a file of measurements ({error}): remove it, and the stages write it again") from error
    return timings


def _read_or_empty(file: Path) -> Timings:
    try:
        return read_timings(file)
    except ValueError as error:
        logger.warning("%s", error)
        return {}


def of_pipeline(timings: Timings, names: Iterable[str]) -> Timings:
    """Selects the stages that dvc.yaml has now, in its order."""
    return {name: timings[name] for name in names if name in timings}


def announce(stage: str, description: str, timings: Timings) -> str:
    """Says what a stage will do, and how long it took in its last run if that was measured, with the machine if it was another one."""
    text = f"{stage}: {description}"
    if stage in timings:
        text += f", about {format_seconds(timings[stage]['seconds'])}"
        if not measured_here({stage: timings[stage]}):
            text += f" on {_describe(timings[stage]['machine'])}"
    return text


def record(stage: str, used: dict[str, float], names: Iterable[str], file: Path = FILE) -> None:
    """Writes the entry of a stage; those of others stay, also if two stages end at once. used: of `usage`. names: of all stages, in order.

    A file that cannot be read is replaced, and one that cannot be written is left out, with a warning: the stage has done its work.
    """
    from filelock import FileLock  # at the end of a stage, which starts sooner without it

    from sur_adapter.io.work_cache import work_dir

    finished = datetime.now(UTC).isoformat(timespec="seconds")
    try:
        work_dir().mkdir(parents=True, exist_ok=True)
        with FileLock(work_dir() / "timing.lock"):
            timings = _read_or_empty(file) | {stage: used | {"finished": finished, "machine": this_machine()}}
            atomic_write_text(file, json.dumps(of_pipeline(timings, names) | timings, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        logger.warning("the seconds of %s are not recorded in %s (%s)", stage, file, error)


def table(timings: Timings) -> str:
    """Formats seconds, share of the total, CPU seconds and peak memory of the stages, and the machines they were measured on."""
    if not timings:
        return "no stage of dvc.yaml was measured yet: `dvc repro` measures those that it runs"
    total = sum(entry["seconds"] for entry in timings.values())
    rows = [("stage", "seconds", "share", "CPU seconds", "peak MB", "finished")]
    for name, entry in timings.items():
        finished = datetime.fromisoformat(entry["finished"]).astimezone().strftime("%Y-%m-%d %H:%M")
        share = f"{entry['seconds'] / total:.0%}" if total else "-"
        rows.append((name, f"{entry['seconds']:,.1f}", share, f"{entry['cpu_seconds']:,.1f}", f"{entry['peak_memory_mb']:,.0f}", finished))
    cpu, peak = sum(e["cpu_seconds"] for e in timings.values()), max(e["peak_memory_mb"] for e in timings.values())
    rows.append(("total", f"{total:,.1f}", "", f"{cpu:,.1f}", f"{peak:,.0f}", ""))
    machines = dict.fromkeys(_describe(entry["machine"]) for entry in timings.values())
    return "\n".join([*align(rows), f"{format_seconds(total)} in all, measured on {'; '.join(machines)}"])


def align(rows: list[tuple[str, ...]]) -> list[str]:
    """Formats rows of text as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join((c.rjust if i else c.ljust)(width) for i, (c, width) in enumerate(zip(row, widths, strict=True))) for row in rows)
    return [line.rstrip() for line in lines]


def format_seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} minutes" if seconds < 6000 else f"{seconds / 3600:.1f} hours"


def _describe(machine: dict[str, Any]) -> str:
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    return f"{machine['cpu']}, {machine['cores']} core{'s' * (machine['cores'] != 1)}{gpu}"
