"""The minutes and seconds that README and docs state are those of the committed reports/timing.json, within a factor."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from helpers.repository import ROOT

from sur_adapter.config import Params
from sur_adapter.tools.timing import pipeline_commands

FACTOR, ROUNDING = 1.25, 2.0  # pages state round minutes, and whole seconds
STAGES = list(pipeline_commands(Params.read(ROOT / "params.yaml"), ROOT / "dvc.yaml"))


def stated_minutes(page: Path) -> list[float]:
    """The minutes of the default run that a page states."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    return [float(minutes) for minutes in re.findall(r"about ([\d.]+) minutes on two CPU cores", text)]


def stated_seconds() -> dict[str, list[float]]:
    """Stage -> the seconds of its parts, of the table in docs/index.md."""
    rows = re.findall(r"^\| `(\w+)[`@].*\| ([^|]*\d[^|]*) \|$", (ROOT / "docs/index.md").read_text(encoding="utf-8"), re.M)
    return {stage: [float(seconds) for seconds in cell.split(" + ")] for stage, cell in rows}


def parts(stage: str) -> list[str]:
    return [name for name in STAGES if name.partition("@")[0] == stage]


@pytest.fixture(scope="module")
def measured() -> dict[str, float]:
    """Stage, as DVC names it -> seconds. The committed ones: a run here replaces the file with those of this machine."""
    done = subprocess.run(["git", "show", "HEAD:./reports/timing.json"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("reports/timing.json is not committed: it is written by a full `dvc repro`")
    timings = json.loads(done.stdout)
    assert [name for name in STAGES if name not in timings] == [], "stages without a measurement: run `dvc repro` in a new clone"
    return {name: timings[name]["seconds"] for name in STAGES}


def test_all_pages_state_the_same_minutes():
    pages = {page.name: stated_minutes(page) for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    assert pages["README.md"] and pages["quick-start.md"] and pages["miniature.md"]
    assert len({minutes for stated in pages.values() for minutes in stated}) == 1, pages


def test_the_table_of_stages_has_a_figure_for_each_part():
    stated = stated_seconds()
    assert {stage: len(seconds) for stage, seconds in stated.items()} == {stage: len(parts(stage)) for stage in stated}
    assert {name.partition("@")[0] for name in STAGES} == set(stated)


def test_the_minutes_of_the_readme_are_those_that_were_measured(measured):
    minutes, total = stated_minutes(ROOT / "README.md")[0], sum(measured.values()) / 60
    assert total / FACTOR <= minutes <= total * FACTOR, f"the stages took {total:.1f} minutes"


def test_the_seconds_of_the_table_are_those_that_were_measured(measured):
    stated = {name: seconds for stage, cell in stated_seconds().items() for name, seconds in zip(parts(stage), cell, strict=True)}
    wrong = {name: (stated[name], seconds) for name, seconds in measured.items() if not agrees(stated[name], seconds)}
    assert wrong == {}, "stated and measured seconds"


def agrees(stated: float, seconds: float) -> bool:
    return seconds / FACTOR - ROUNDING <= stated <= seconds * FACTOR + ROUNDING
