"""Several trainings of the default: the summary, its page, and the table of the README."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from helpers.repository import ROOT

from experiments import seeds
from experiments.ablations.rows import ROWS
from experiments.ablations.runs import Run, Workspace
from sur_adapter.evaluation.summary import JUDGEMENTS
from sur_adapter.generation.arms import ARMS
from sur_adapter.io.shards import write_table

TEACHER = (  # set, category, how the README calls them
    ("main", "overall", "templates far from all training text"),
    ("reasoning", "overall", "implied attributes"),
    ("held_out", "held_out_near", "a known key word"),
    ("held_out", "held_out_far", "no known word"),
)
SHARES = {"baseline": 0.4, "adapter": 0.8, "complex": 0.9, "complex_adapter": 0.85, "expansion": 0.5, "rewrite": 0.9}


def judgements(adapter: float) -> pd.DataFrame:
    sets = {"main": ("action", "color"), "held_out": ("held_out_near", "held_out_far")}
    rows = [
        {"set": name, "id": f"{category}-{i}", "category": category, "arm": arm, "seed": seed, "shown": float(i < 20 * share)}
        for name, categories in sets.items()
        for category in categories
        for arm, share in (SHARES | {"adapter": adapter}).items()
        for i in range(20)
        for seed in range(2)
    ]
    return pd.DataFrame(rows).reindex(columns=JUDGEMENTS.names)


@pytest.fixture
def runs(tmp_path, monkeypatch) -> dict[str, list[Run]]:
    monkeypatch.chdir(tmp_path)
    sets = {"development": "prompts/development", "test": "prompts/test"}
    params = {"models": {"llm": "llm"}, "generate": {"prompts": "prompts/development"}, "train": {"seed": 0}, "prompt_sets": sets}
    workspace = Workspace(params | {"evaluate": {"clip": None}, "loss": {"w_llm": 1.0}}, "data")
    workspace.__dict__["is_up_to_date"] = True
    runs = {row: [Run(row, ROWS[row], seed, workspace) for seed in range(count)] for row, count in (("full", 3), ("full-no-llm", 2))}
    every = runs["full"] + runs["full-no-llm"]
    for run, adapter in zip(every, (0.7, 0.8, 0.9, 0.6, 0.7), strict=True):
        write_table(run.reports / "judgements.parquet", judgements(adapter), JUDGEMENTS)
    for prompts in ("development", "test"):
        Path(f"prompts/{prompts}").mkdir(parents=True)
        Path(f"prompts/{prompts}/a.jsonl").write_text(prompts)
    for run in every:
        run.adapter.mkdir(parents=True)
        (run.adapter / "adapter.safetensors").write_text(run.name + str(run.seed))
    return runs


class Commands:
    """Stands in for the stages: notes what was asked for, and writes what they write."""

    def __init__(self):
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, words: list[str], params: Path, log: Path) -> None:
        options = dict(zip(words[1:], words[2:], strict=False))
        arms = words[words.index("--arms") + 1 : words.index("--prompts")] if "--arms" in words else []
        self.calls.append((words[0], *arms, options["--prompts"], options.get("--adapter", "")))
        for arm in arms:
            (Path(options["--out"]) / arm).mkdir(parents=True)
        if words[0] == "evaluate":
            write_table(Path(options["--out-dir"]) / "judgements.parquet", judgements(0.6), JUDGEMENTS)


def test_the_first_training_is_that_of_the_pipeline_and_all_are_summarized(runs):
    ours = runs["full"]
    ours[0].workspace.params["executor"] = {}
    assert [str(run.reports) for run in ours] == ["reports", "data/ablations/full-s1/reports", "data/ablations/full-s2/reports"]
    commands = Commands()
    summary = seeds.summarize(runs, {row: seeds.measure(of, commands, 1) for row, of in runs.items()})
    assert commands.calls[0] == ("generate", "baseline", "complex", "rewrite", "prompts/test", ""), "once for all trainings"
    of_each = [
        call
        for adapter in ("models/adapter", "data/ablations/full-s1/adapter", "data/ablations/full-s2/adapter")
        for call in (("generate", "adapter", "complex_adapter", "prompts/test", adapter), ("evaluate", "prompts/test", adapter))
    ]
    assert commands.calls[1:7] == of_each
    assert len(commands.calls) == 11, "the arms without the adapter are those of the other row"
    seeds.measure(ours, commands, 2)
    assert len(commands.calls) == 11, "a finished measurement is not repeated"
    teacher = summary["teacher"]["sets"]["development"]
    assert summary["teacher"]["trainings"] == 2 and teacher["main"]["difference"]["action"]["value"] == pytest.approx(0.1)
    assert summary["teacher"]["sets"]["test"]["held_out"]["difference"]["held_out_far"]["value"] == 0
    assert len(set(summary["adapters"])) == 3
    assert summary["trainings"] == 3 and summary["seeds"] == [0, 1, 2] and list(summary["sets"]) == ["test", "development"]
    assert summary["sets"]["test"]["main"]["accuracy"]["adapter"]["overall"]["value"] == pytest.approx(0.6)
    assert list(summary["sets"]["development"]) == ["main", "held_out"]
    main = summary["sets"]["development"]["main"]
    assert main["accuracy"]["adapter"]["overall"]["value"] == pytest.approx(0.8) and main["gap_closed"]["value"] == pytest.approx(0.8)
    page = seeds.format_page(summary)
    assert "| development | main | action | +0.100 [" in page
    assert (
        "# 3 trainings of the default" in page
        and "## development: main (n = 40 × 2)" in page
        and "## test: held_out (n" in page
        and "Adapter − baseline +0.400 [" in page
    )
    assert "on_complex" not in page and "complex + adapter − complex −0.050 [" in page
    short = seeds.format_short_table(summary).splitlines()
    assert short[2].startswith("| test | templates far from all training text | 40 × 2 | 0.40 [") and "| 0.60 [" in short[2]
    assert short[-1].startswith("| development | templates near to training text | 40 × 2 | 0.40 [") and "| 0.80 [" in short[-1]
    assert len(short) == 6, "sets that were not drawn have no line"


def test_a_training_that_ran_elsewhere_is_named(runs):
    shutil.rmtree("data/ablations/full-s1")
    with pytest.raises(FileNotFoundError, match=r"full-s1/reports/judgements.parquet is missing: seed 1 ran elsewhere; remove its line"):
        seeds.measure(runs["full"], Commands(), 1)


def test_without_test_prompts_one_sentence_says_so(runs):
    runs["full"][0].workspace.params["prompt_sets"]["test"] = None
    with pytest.raises(ValueError, match=r"prompt_sets.test is missing: name the file or folder"):
        seeds.measure(runs["full"], Commands(), 1)


@pytest.mark.parametrize("arguments", [["1"], ["5", "--jobs", "0"]])
def test_too_few_trainings_are_refused(arguments):
    with pytest.raises(ValueError, match="give at least 2 trainings and 1 job"):
        seeds.main(arguments)


def test_the_committed_page_and_the_table_of_the_readme_are_those_of_the_committed_figures():
    summary = json.loads((ROOT / "experiments/seeds.json").read_text(encoding="utf-8"))
    assert (ROOT / "experiments/seeds.md").read_text(encoding="utf-8") == seeds.format_page(summary)
    assert summary["trainings"] >= 3 and seeds.format_short_table(summary) in (ROOT / "README.md").read_text(encoding="utf-8")
    main = summary["sets"]["development"]["main"]["accuracy"]
    assert set(main) == set(ARMS) and set(summary["sets"]["test"]["main"]["accuracy"]) == set(ARMS) - {"expansion"}
    metrics = json.loads((ROOT / "reports/metrics.json").read_text(encoding="utf-8"))
    for arm in ("baseline", "complex", "rewrite"):
        assert main[arm]["overall"]["value"] == metrics["semantic"]["overall"][arm]["value"], "the same images"
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for name, category, label in TEACHER if "teacher" in summary else ():
        interval = summary["teacher"]["sets"]["test"][name]["difference"][category]
        assert f"{label} {seeds._signed(interval, '')}" in text, label
    low, high = (main["adapter"]["overall"][end] for end in ("low", "high"))
    assert low <= metrics["semantic"]["overall"]["adapter"]["value"] <= high
