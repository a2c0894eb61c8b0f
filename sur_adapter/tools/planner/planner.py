"""plan: prints an estimate of rows, disk, hours and memory of every stage before a run, and which stage dominates.

Where a stage was measured on a machine like this one (reports/timing.json), its seconds are a column of the table, and the sum of those
that `dvc repro` would run now is printed.
"""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from sur_adapter.config import Params
from sur_adapter.generation.prompts import read_prompt_sets
from sur_adapter.tools.planner.estimate import Assumptions, Plan, StageEstimate, make_plan
from sur_adapter.tools.planner.measured_rates import MeasuredRates, mean_image_bytes
from sur_adapter.tools.planner.settings import PlanSettings
from sur_adapter.tools.timing import FILE, align, format_seconds, measured_here, pipeline_commands, read_timings

COLUMNS = {"disk_bytes": 1e9, "cpu_seconds": 3600, "gpu_seconds": 3600, "memory_bytes": 2**30}  # field -> size of the printed unit
HEADER = ("stage", "rows", "disk GB", "CPU hours", "GPU hours", "memory GiB")
LEGEND = (
    "m: measured, this work with these models. s: scaled by operations or bytes from measurements of others. e: estimated, not measured: "
    "operations over the stated speed of the GPU.\nCPU hours are of two cores. Disk and memory are estimates: weights (the LLM's in 16 "
    "bits), activations of a batch, and buffered shards."
)
DVC_CACHE = (
    "DVC's cache holds a second copy of every output where the file system has no reflinks; `dvc config cache.type hardlink,symlink` "
    "avoids that."
)


def add_arguments(parser: ArgumentParser) -> None:
    default = Assumptions()
    parser.add_argument("--rows", type=_positive, help="candidates to crawl, instead of those of params.yaml")
    parser.add_argument("--image-bytes", type=_positive, help="mean size of an image")
    parser.add_argument("--mfu", type=_positive, default=default.mfu, help="share of the GPU's peak that is reached (%(default)s)")
    parser.add_argument("--teraflops", type=_positive, default=default.teraflops, help="peak of the GPU in bf16 (%(default)s)")
    parser.add_argument("--teraflops-fp32", type=_positive, default=default.teraflops_fp32, help="peak of the GPU in fp32 (%(default)s)")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), help="crawled shards, for the mean size of images (%(default)s)")
    parser.add_argument("--funnel", type=Path, default=Path("reports/funnel.json"), help="what an earlier run kept (%(default)s)")
    parser.add_argument("--sentences", type=Path, default=Path("reports/sentences.json"), help="the same for sentences (%(default)s)")
    parser.add_argument("--timing", type=Path, default=FILE, help="measurements of the stages on this machine (%(default)s)")
    parser.add_argument("--benchmarks", type=Path, default=Path("experiments/benchmarks"), help="measured rates (%(default)s)")


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise ArgumentTypeError(f"{text} is not a number above 0")
    return number


def run(args: Namespace, params: Params) -> None:
    settings, prompts = PlanSettings.read(params), Path(params.raw("generate")["prompts"])
    sets = {
        name: Counter(row["category"] for row in rows) for name, rows in (read_prompt_sets(prompts) if prompts.exists() else {}).items()
    }
    funnel = json.loads(args.funnel.read_text()) if args.funnel.exists() else None
    sizes = {name: mean for name in settings.sources if (mean := mean_image_bytes(args.raw / name))}
    rows = round(args.rows) if args.rows else None
    assumptions = Assumptions(rows, args.image_bytes, args.mfu, args.teraflops, args.teraflops_fp32)
    report = json.loads(args.sentences.read_text()) if args.sentences.exists() else None
    seconds, commands = measured_here(read_timings(args.timing)), pipeline_commands(params)
    plan = make_plan(settings, MeasuredRates.read(args.benchmarks), funnel, sets, sizes, assumptions, report)
    print(format_plan(plan, add_up((estimate.stage for estimate in plan.stages), seconds, commands)))
    if seconds and (pending := pending_stages()) is not None:
        print(format_pending(pending, seconds))


def add_up(stages: Iterable[str], seconds: dict[str, float], names: Iterable[str]) -> dict[str, float]:
    """Returns stage of the plan -> seconds, where all its parts were measured: those of `generate` are generate@rewrite and others.

    names: of all stages in dvc.yaml. seconds: by such a name.
    """
    parts = {stage: [name for name in names if stage in (name, name.partition("@")[0])] for stage in stages}
    return {stage: sum(seconds[name] for name in group) for stage, group in parts.items() if group and seconds.keys() >= {*group}}


def pending_stages() -> list[str] | None:
    """Lists the stages that `dvc repro` would run now, as DVC names them; None if it cannot tell, as outside of a project of DVC.

    Stages after a changed one count, though they do not run if its outs turn out to be the same.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", "repro", "--dry", "--force-downstream"], capture_output=True, text=True)
    return None if done.returncode else re.findall(r"^Running stage '(.+)':$", done.stdout, re.M)


def format_pending(pending: list[str], seconds: dict[str, float]) -> str:
    """Formats one sentence on how long these stages take. seconds: of the stages that were measured here."""
    if not pending:
        return "`dvc repro` would run no stage: all outs are up to date"
    known, unknown = ([name for name in pending if (name in seconds) == measured] for measured in (True, False))
    text = f"`dvc repro` would run {len(pending)} stage{'s' * (len(pending) > 1)} ({', '.join(pending)}): "
    if not known:
        return text + "not measured here"
    text += f"about {format_seconds(sum(seconds[name] for name in known))} here"
    return text + (f", without {', '.join(unknown)}: not measured" if unknown else "")


def format_plan(plan: Plan, measured: dict[str, float] | None = None) -> str:
    """Formats the plan as text: a table of the stages, what dominates each column, and where the figures come from.

    measured: stage -> seconds of its last run on this machine, a column more if there are any.
    """
    rows = [HEADER, *map(_cells, plan.stages), _total_cells(plan.stages)]
    if measured:
        cells = [f"{measured[e.stage]:,.1f}" if e.stage in measured else "-" for e in plan.stages]
        cells = ["measured seconds", *cells, f"{sum(measured.values()):,.1f}"]
        rows = [(*row, cell) for row, cell in zip(rows, cells, strict=True)]
    notes = [f"{estimate.stage}: {estimate.note}" for estimate in plan.stages if estimate.note]
    a = plan.assumptions
    gpu = f"GPU: {a.teraflops:g} teraflops in bf16, {a.teraflops_fp32:g} in fp32, of which {a.mfu:.0%} are reached (mfu): assumed"
    return "\n".join([*align(rows), "", *_largest(plan.stages), *notes, *plan.notes, gpu, DVC_CACHE, LEGEND])


def _cells(estimate: StageEstimate) -> tuple[str, ...]:
    rows = "?" if estimate.rows is None else f"{estimate.rows:,}"
    marks = {"disk_bytes": "", "cpu_seconds": f" {estimate.source}", "gpu_seconds": " e", "memory_bytes": ""}
    texts = {name: _number(getattr(estimate, name), unit) for name, unit in COLUMNS.items()}
    missing = "?" if estimate.rows is None else "-"
    return estimate.stage, rows, *(missing if text is None else text + marks[name] for name, text in texts.items())


def _total_cells(estimates: list[StageEstimate]) -> tuple[str, ...]:
    """Adds up what is known; for memory, which is not used all at once, the maximum."""
    prefix = "at least " if any(estimate.rows is None for estimate in estimates) else ""
    totals = {}
    for name, unit in COLUMNS.items():
        known = [value for estimate in estimates if (value := getattr(estimate, name)) is not None] or [0]
        totals[name] = prefix + (_number((max if name == "memory_bytes" else sum)(known), unit) or "0")
    return "total", "", totals["disk_bytes"], totals["cpu_seconds"], totals["gpu_seconds"] + " e", totals["memory_bytes"]


def _number(value: float | None, unit: float) -> str | None:
    """Formats three significant digits, more for large values; None for none or zero."""
    if not value:
        return None
    value /= unit
    if value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _largest(estimates: list[StageEstimate]) -> list[str]:
    """Says which stage dominates each column, and by what share."""
    lines = []
    titles = {"disk_bytes": "disk", "cpu_seconds": "CPU hours", "gpu_seconds": "GPU hours", "memory_bytes": "memory"}
    for name, title in titles.items():
        known = [estimate for estimate in estimates if getattr(estimate, name)]
        if known:
            first = max(known, key=lambda estimate: getattr(estimate, name))
            share = getattr(first, name) / sum(getattr(estimate, name) for estimate in known)
            amount = f"{_number(first.memory_bytes, 2**30)} GiB" if name == "memory_bytes" else f"{share:.0%} of the total"
            lines.append(f"most {title}: {first.stage}, {amount}")
    return lines
