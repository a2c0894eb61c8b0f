"""The ablations: every row is a command that can run, and the table has the figures of the experiments."""

import shutil

import numpy as np
import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from helpers.repository import ROOT
from ruamel.yaml import YAML
from transformers import AutoConfig

from experiments.ablations.__main__ import commands
from experiments.ablations.rows import ROWS
from experiments.ablations.table import FIGURES, collect_results, format_page, interval
from experiments.ablations.teachers import ACCURACIES, teacher_rows
from sur_adapter.models.llm import select_layers

SETS = ("reasoning", "hand_written")  # an experiment of older params has none
PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")


def experiment(gap: float, **more) -> dict:
    """The entry of one experiment in `dvc exp show --json`."""
    semantic = {"gap_closed": {"value": gap}, "overall": {"adapter": {"value": 0.7}}, "on_complex": {"value": -0.01}}
    semantic |= {name: {"adapter": {"value": 0.7}} for name in ("action", "color", "counting")}
    numbers = {"semantic": semantic, "quality": {"regressed": 0}}
    return {"data": {"metrics": {"reports/metrics.json": {"data": numbers}}} | more}


def at(tree: dict, key: str):
    for name in key.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_the_params_that_it_names_and_no_others(name, tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    row, (_, command) = ROWS[name], next(commands([name]))
    apply_overrides(tmp_path / "params.yaml", [word.removeprefix("-S") for word in command if word.startswith("-S")])  # as DVC does
    changed = YAML(typ="safe").load(tmp_path / "params.yaml")
    expected = row.shared | row.changes | {"train.seed": 0}
    assert all(at(changed, key.lstrip("+")) == value for key, value in expected.items())
    assert row.seeds >= 3 and (not row.changes or any("+" in key or at(PARAMS, key) != value for key, value in row.changes.items()))
    for key in expected:
        place, _, last = key.lstrip("+").rpartition(".")
        if "+" in key:
            del at(changed, place)[last]
        else:
            at(changed, place)[last] = at(PARAMS, key)
    assert changed == PARAMS


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "cache.llm.layers" in row.changes])
def test_a_row_names_layers_that_the_llm_has(name):
    model = PARAMS["models"]["llm"]
    depth = AutoConfig.from_pretrained(ROOT / model).num_hidden_layers
    assert select_layers(ROWS[name].changes["cache.llm.layers"], depth, model)


@pytest.mark.parametrize("accuracy", ACCURACIES)
def test_a_teacher_is_right_in_the_share_that_its_row_names(accuracy):
    rows = teacher_rows(accuracy, 1000)
    assert np.mean([row["answer"] == row["expected"] for row in rows]) == pytest.approx(accuracy, abs=0.04)
    assert rows == teacher_rows(accuracy, 1000) and len({row["sentence"] for row in rows}) > 950
    _, command = next(commands([f"teacher-{100 * accuracy:.0f}"]))
    assert command[6:8] == ["--copy-paths", "experiments/ablations/teachers"]


def test_no_two_rows_are_the_same_experiment():
    experiments = [str(sorted((row.shared | row.changes).items())) for row in ROWS.values()]
    assert len(set(experiments)) == len(experiments)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.against])
def test_a_row_has_the_length_and_seeds_of_its_reference(name):
    row, other = ROWS[name], ROWS[ROWS[name].against]
    assert row.shared == other.shared and other.seeds >= row.seeds


def test_the_difference_is_relative_to_the_reference_row(tmp_path):
    gaps = {"ours": (0.5, 0.6), "target-decoded": (0.3, 0.4), "decoded-layer-1": (0.31, 0.41), "kl": (0.1, 0.2), "kl-mask": (0.0, 0.1)}
    experiments = {f"{row}-s{seed}": experiment(gap) for row, values in gaps.items() for seed, gap in enumerate(values)}
    text = format_page(collect_results(experiments, tmp_path / "results.csv"))
    assert (
        "**+0.01 [+0.01, +0.01]** from: LLM target: hidden states of its answers, decoded |" in text
        and "**-0.10 [-0.10, -0.10]** from: prompt loss `kl`, the paper's |" in text
    )


def test_the_first_seed_of_every_row_is_queued_before_the_second():
    names = [name for name, _ in commands(["ours", "full"])]
    assert names == ["ours-s0", "full-s0", "ours-s1", "full-s1", "ours-s2", "full-s2", "full-s3", "full-s4"]
    _, command = next(commands(["decoded-layer-1"]))
    assert command[:6] == ["dvc", "exp", "run", "--queue", "-n", "decoded-layer-1-s0"]
    assert {"-Scache.llm.layers=[1]", "-Sloss.llm=decoded", "-Strain.seed=0", "-Ssweep.strengths=[]"} <= set(command)


def test_finished_experiments_become_rows_and_are_added_to_earlier_ones(tmp_path):
    file = tmp_path / "results.csv"
    first = {"ours-s0": experiment(0.5), "kl-s1": experiment(0.2), "mine": experiment(0.9), "kl-s0": {"data": {}}, "kl-s2": {"error": {}}}
    first["ours-s2"] = experiment(0.8) | {"error": {"msg": "Experiment run failed"}}
    first["no-llm-s0"] = experiment(0.8) | {"executor": {"state": "running"}}
    first["kl-s1"]["executor"] = {"state": "success"}
    runs = collect_results(first, file)
    assert runs[["row", "seed", "gap"]].values.tolist() == [["kl", 1, 0.2], ["ours", 0, 0.5]]
    assert runs[[name for name in FIGURES if name not in SETS]].notna().all(axis=None)
    again = collect_results({"ours-s0": experiment(0.6), "ours-s1": experiment(0.7)}, file)
    assert again.set_index(["row", "seed"]).gap.to_dict() == {("kl", 1): 0.2, ("ours", 0): 0.6, ("ours", 1): 0.7}
    assert pd.read_csv(file).gap.tolist() == again.gap.tolist()


def test_the_interval_is_that_of_students_t():
    mean, half = interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6) and half == pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4)
    assert np.isnan(interval([0.5])[1])


def test_a_difference_is_on_the_same_seeds_and_bold_if_its_interval_excludes_0(tmp_path):
    gaps = {"ours": (0.5, 0.6, 0.7), "kl": (0.1, 0.21, 0.3), "no-llm": (0.6, 0.5, 0.7), "depth-4": (0.8,)}
    experiments = {f"{row}-s{seed}": experiment(gap) for row, values in gaps.items() for seed, gap in enumerate(values)}
    lines = {
        line.split(" | ")[0][2:]: line
        for line in format_page(collect_results(experiments, tmp_path / "results.csv")).splitlines()
        if line.startswith("| ")
    }
    assert "| 3 | 0.60 ± 0.25 |  | 0.700 |" in lines[ROWS["ours"].label]
    assert "**-0.40 [-0.41, -0.38]**" in lines[ROWS["kl"].label] and "`loss.prompt=kl`" in lines[ROWS["kl"].label]
    assert "+0.00 [-0.25, +0.25]" in lines[ROWS["no-llm"].label] and "**" not in lines[ROWS["no-llm"].label]
    assert "| 1 | 0.80 | +0.30 |" in lines[ROWS["depth-4"].label]
    assert ROWS["published"].label not in lines, "this row has not run"


def test_the_committed_table_is_that_of_the_results():
    folder = ROOT / "experiments/ablations"
    assert (folder / "README.md").read_text(encoding="utf-8") == format_page(pd.read_csv(folder / "results.csv"))


def test_the_readme_has_the_gap_closed_by_the_full_length_trainings():
    results = pd.read_csv(ROOT / "experiments/ablations/results.csv")
    gaps = results[results.row == "full"].gap
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    if gaps.empty:  # not run with these params: then the README must not quote figures of others
        assert "one training, seed 0" in text and "trainings with different seeds" not in text
    else:
        mean, half = interval(gaps)
        assert len(gaps) == 5 and f"Five trainings with different seeds close {mean:.2f} ± {half:.2f} of it;" in text
