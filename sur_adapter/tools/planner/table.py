"""A plan in words: a table of the stages, what weighs most, and where each figure is from."""

from sur_adapter.tools.planner.planner import Line, Plan

COLUMNS = {"disk": 1e9, "cpu": 3600, "gpu": 3600, "held": 2**30}  # what one of the unit has
HEADS = ("stage", "rows", "disk GB", "CPU hours", "GPU hours", "memory GiB")
MEANT = (
    "m: measured, this work with these models. s: scaled by operations or bytes from what was measured on others. r: reckoned, not "
    "measured: operations over what is stated of the GPU.\nCPU hours are of two cores. Disk and memory are reckoned: of weights (the LLM's "
    "in 16 bits), of what a batch holds, and of a shard on its way."
)
TWICE = "DVC's cache holds every out once more where the file system has no reflinks; `dvc config cache.type hardlink,symlink` spares that."


def table(plan: Plan, mfu: float, teraflops: float, teraflops_fp32: float) -> str:
    rows = [HEADS, *(_cells(line) for line in plan.lines), _totals(plan.lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [
        "  ".join((cell.ljust if i == 0 else cell.rjust)(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    why = [f"{line.stage}: {line.why}" for line in plan.lines if line.why]
    gpu = f"GPU: {teraflops:g} teraflops in bf16, {teraflops_fp32:g} in fp32, of which {mfu:.0%} are reached (mfu): stated"
    return "\n".join([*(line.rstrip() for line in text), "", *_most(plan.lines), *why, *filter(None, plan.notes), gpu, TWICE, MEANT])


def _cells(line: Line) -> tuple[str, ...]:
    rows = "?" if line.rows is None else f"{line.rows:,}"
    marks = {"disk": "", "cpu": f" {line.mark}", "gpu": " r", "held": ""}
    shown = {name: _number(getattr(line, name), unit) for name, unit in COLUMNS.items()}
    missing = "?" if line.rows is None else "-"
    return line.stage, rows, *(missing if text is None else text + marks[name] for name, text in shown.items())


def _totals(lines: list[Line]) -> tuple[str, ...]:
    """Sums of what is known; of the memory, which is not held all at once, the most."""
    sums = {name: [getattr(line, name) for line in lines if getattr(line, name) is not None] for name in COLUMNS}
    least = "at least " if any(line.rows is None for line in lines) else ""
    total = {name: least + (_number((max if name == "held" else sum)(found or [0]), COLUMNS[name]) or "0") for name, found in sums.items()}
    return "in all", "", total["disk"], total["cpu"], total["gpu"] + " r", total["held"]


def _number(value: float | None, unit: float) -> str | None:
    """Three figures of it, more if it is larger; nothing where there is none."""
    if not value:
        return None
    value /= unit
    if value < 0.001:
        return "<0.001"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"


def _most(lines: list[Line]) -> list[str]:
    """Which stage dominates each column, and by what share."""
    said = []
    for name, what in (("disk", "disk"), ("cpu", "CPU hours"), ("gpu", "GPU hours"), ("held", "memory")):
        known = [line for line in lines if getattr(line, name)]
        if known:
            first = max(known, key=lambda line: getattr(line, name))
            share = getattr(first, name) / sum(getattr(line, name) for line in known)
            said.append(
                f"most {what}: {first.stage}" + (f", {share:.0%} of all" if name != "held" else f", {_number(first.held, 2**30)} GiB")
            )
    return said
