"""Prompts that share a template: wider intervals, accuracy by template, and the line of several trainings in the report."""

import json

import pandas as pd
import pytest
from helpers.finished_run import EACH, PROMPTS, RIGHT, FinishedRun
from helpers.miniature_adapter import random_adapter

from sur_adapter.evaluation.summary import accuracy_by_template, clusters_of
from sur_adapter.io.hashing import folder_digest

TEMPLATES = [p | {"template": f"{p['category']} {int(p['id'][-3:]) % 2}"} for p in PROMPTS]  # two of each category


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    finished = FinishedRun(tmp_path_factory.mktemp("run"), rows=TEMPLATES)
    random_adapter(finished.adapter)
    finished.metrics = finished.run()
    finished.page = (finished.reports / "index.html").read_text(encoding="utf-8")
    return finished


def test_intervals_over_templates_are_wider_and_values_are_the_same(finished, tmp_path):
    plain = FinishedRun(tmp_path).run()["semantic"]
    semantic = finished.metrics["semantic"]
    for key in ("value", "win", "tie", "loss"):
        assert semantic["difference"][key] == plain["difference"][key]
    assert semantic["gap_closed"]["value"] == plain["gap_closed"]["value"]
    assert semantic["overall"]["adapter"]["value"] == plain["overall"]["adapter"]["value"]
    assert semantic["difference"] != plain["difference"] and semantic["gap_closed"] != plain["gap_closed"]


def test_accuracy_by_template_is_a_table_of_the_plots_and_in_the_report(finished):
    table = pd.read_csv(finished.reports / "plots/templates.csv")
    assert len(table) == 6 and set(table["set"]) == {"main"} and (table.prompts == EACH // 2).all()
    for arm, right in RIGHT.items():
        assert table[arm].mean() == pytest.approx(right / EACH, abs=1e-3)
    assert "By template" in finished.page and "counting 1" in finished.page and "over templates and their prompts" in finished.page


def test_without_templates_there_is_no_table(tmp_path):
    run = FinishedRun(tmp_path)
    run.run()
    assert not (run.reports / "plots/templates.csv").exists()
    page = (run.reports / "index.html").read_text(encoding="utf-8")
    assert "By template" not in page and "95 %, over prompts." in page


def test_prompts_without_a_template_count_for_themselves():
    table = pd.DataFrame({"id": ["a", "b", "c", "d"], "template": ["t", "t", None, None]})
    assert clusters_of(table, pd.Index(["d", "a", "b", "c"])).tolist() == ["d", "t", "t", "c"]
    assert clusters_of(table.assign(template=None), pd.Index(["a", "b"])) is None
    assert clusters_of(table[["id"]], pd.Index(["a"])) is None
    judged = table.assign(set="main", category="x", arm="baseline", shown=[1.0, 0.0, 1.0, 1.0])
    assert accuracy_by_template(judged).to_dict("records") == [
        {"set": "main", "category": "x", "template": "t", "prompts": 2, "baseline": 0.5}
    ]
    assert accuracy_by_template(judged.assign(shown=float("nan"))).empty


def test_the_report_has_the_line_of_several_trainings_if_its_adapter_is_one_of_them(finished, tmp_path):
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    arms = dict.fromkeys(("baseline", "adapter", "complex"), {"overall": rate})
    main = {"accuracy": arms, "gap_closed": {"value": 0.9, "low": 0.8, "high": 1.0}, "templates": 36}
    summary = {"trainings": 5, "sets": {"test": {"main": main}}, "adapters": ["0", folder_digest(finished.adapter, "*.safetensors")]}
    line = "5 trainings, test prompts: 50 % [40–60] of the images are right without the adapter, 50 % [40–60] with it; keyword prompts"
    for adapters, shown in ((summary["adapters"], True), (["0"], False)):
        (tmp_path / "seeds.json").write_text(json.dumps(summary | {"adapters": adapters}))
        finished.run(trainings=tmp_path / "seeds.json")
        page = (finished.reports / "index.html").read_text(encoding="utf-8")
        assert (line in page) == shown
        assert ("gap closed 0.90 [0.80–1.00]. Intervals over trainings, templates and prompts." in page) == shown
