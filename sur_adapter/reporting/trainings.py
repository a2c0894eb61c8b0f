"""What several trainings give, for the report of one of them: the summary of `python -m experiments.seeds`."""

from pathlib import Path

from sur_adapter.io.hashing import folder_digest
from sur_adapter.reporting.html import number, percent, span


def trainings_of(summary: dict, adapter: Path) -> dict:
    """Returns `summary` if the adapter in this folder is one of the trainings that it summarizes, else {}."""
    return summary if folder_digest(adapter, "*.safetensors") in summary.get("adapters", ()) else {}


def trainings_lines(summary: dict) -> list[str]:
    """Describes the main set of each kind of prompts in one sentence. summary: of `trainings_of`."""
    return [_line(summary, role, sets["main"]) for role, sets in summary.get("sets", {}).items() if "main" in sets]


def _line(summary: dict, role: str, block: dict) -> str:
    share = {arm: by_group["overall"] for arm, by_group in block["accuracy"].items()}
    text = f"{summary['trainings']} trainings, {role} prompts: {_rate(share['baseline'])} of the images are right without the adapter, "
    text += f"{_rate(share['adapter'])} with it"
    text += f"; keyword prompts {_rate(share['complex'])}" if "complex" in share else ""
    if gap := block.get("gap_closed"):
        text += f"; gap closed {number(gap['value'], '.2f')} [{span(gap['low'], gap['high'], '.2f')}]"
    over = "trainings, templates and prompts" if "templates" in block else "trainings and prompts"
    return f"{text}. Intervals over {over}."


def _rate(interval: dict) -> str:
    return f"{percent(interval['value'])} [{span(100 * interval['low'], 100 * interval['high'])}]"
