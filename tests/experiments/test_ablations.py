"""The ablations: a row runs with the params that it names, once, and the table has the figures of the runs."""

import json
import os
import shutil
import signal
import subprocess
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from helpers.repository import ROOT
from helpers.training_setup import cached, cached_sentences
from ruamel.yaml import YAML
from transformers import AutoConfig

from experiments.ablations.__main__ import in_order, main, run_command, run_rows
from experiments.ablations.rows import DEVELOPMENT, PROMPTS, ROWS, STEPS, Row
from experiments.ablations.runs import PARTS, CommandError, Processes, Run, Workspace
from experiments.ablations.table import ABOUT, FIGURES, Results, format_page, interval
from experiments.ablations.teachers import ACCURACIES, teacher_rows
from stages.__main__ import main as stage
from sur_adapter.models.llm import select_layers

PARAMS = YAML(typ="safe").load(ROOT / "params.yaml")
TINY = {  # settings of trainings that take seconds
    "train.steps": 2, "train.batch_size": 8, "train.eval_steps": 2, "models.llm": "none",
    "generate.prompts": DEVELOPMENT, "generate.per_category": 2, "generate.seeds": 1, "generate.num_inference_steps": 1,
    "evaluate.clip": None, "evaluate.bootstrap_resamples": 100,
}  # fmt: skip


def at(tree: dict, key: str):
    for name in key.split("."):
        tree = tree[name]
    return tree


def put(tree: dict, changes: dict) -> dict:
    for key, value in changes.items():
        place, _, last = key.rpartition(".")
        at(tree, place)[last] = value
    return tree


def metrics(gap: float, reasoning: float = 0.4) -> dict:
    """The figures of metrics.json that the table reads."""
    semantic = {"gap_closed": {"value": gap}, "overall": {"adapter": {"value": 0.7}}, "on_complex": {"value": -0.01}}
    semantic |= {name: {"adapter": {"value": 0.7}} for name in ("action", "color", "counting")}
    kinds = {name: {"value": reasoning} for name in ("overall", "reasoning_colour", "reasoning_number", "reasoning_pose")}
    written = {name: {"value": 0.6} for name in ("overall", "known_words", "wild")}
    sets = {name: {"adapter": figures} for name, figures in (("reasoning", kinds), ("hand_written", written))}
    training = {"validation_loss": 0.08, "validation_llm": 0.16}
    return {"semantic": semantic, "sets": sets, "quality": {"regressed": 0}, "training": training}


def about(
    params: str = "p", base: str = "a", settings: str = "x", code: str = "c", finished: str = "2026-01-01T00:00:00", seconds: int = 90
) -> dict:
    return {"seconds": seconds, "finished": finished, "params": params, "base": base, "settings": settings, "code": code}


@pytest.fixture
def results(tmp_path, monkeypatch) -> Results:
    monkeypatch.chdir(tmp_path)
    return Results(tmp_path / "results.csv", tmp_path / "README.md")


@pytest.fixture
def workspace(tmp_path, monkeypatch, own_work) -> Path:
    """A folder with the features of a finished run, and its params."""
    monkeypatch.chdir(tmp_path)
    for name in ("models", "prompts"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "reports").mkdir()
    shutil.copy(ROOT / "reports/funnel.json", "reports/funnel.json")
    cached(Path("data/features"), train=16)
    cached_sentences(Path("data/features/sentences"), [-0.1] * 16)
    Path("data/pairs.parquet").write_bytes(b"")
    values = put(deepcopy(PARAMS), TINY | {"loss.sentences": 4, "adapter.depth": 1, "adapter.heads": 2})
    YAML(typ="safe").dump(values, Path("params.yaml"))
    return tmp_path


class InThisProcess:
    """Runs the commands of runs here, and keeps them."""

    def __init__(self):
        self.commands: list[list[str]] = []

    def __call__(self, words: list[str], params: Path, log: Path) -> None:
        self.commands.append([word.removeprefix("data/ablations/") for word in words])
        os.environ["SUR_PARAMS"] = str(params)
        try:
            stage(words)
        finally:
            del os.environ["SUR_PARAMS"]

    def names(self) -> list[str]:
        return [words[0] for words in self.commands]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_the_params_that_it_names_and_no_others(name):
    row = ROWS[name]
    changed = Run(name, row, 1, Workspace(PARAMS, "data")).params
    expected = row.shared | row.changes | {"train.seed": 1}
    assert all(at(changed, key.lstrip("+")) == value for key, value in expected.items())
    assert row.seeds >= 3 and (not row.changes or any("+" in key or at(PARAMS, key) != value for key, value in row.changes.items()))
    for key in expected:
        place, _, last = key.lstrip("+").rpartition(".")
        if "+" in key:
            del at(changed, place)[last]
        else:
            at(changed, place)[last] = at(PARAMS, key)
    assert changed == PARAMS | {"executor": {"kind": "inline"}}  # several runs share the cores


@pytest.mark.parametrize("name", ROWS)
def test_a_row_changes_nothing_that_decides_on_pairs_and_their_features(name):
    prefixes = ("loss.", "train.", "adapter.", "sentences.", "cache.sentences.", "cache.llm.", "+sentences.sources.file")
    assert all(key.startswith(prefixes) for key in ROWS[name].changes)


def test_a_row_with_an_unknown_key_is_refused():
    run = Run("wrong", Row("wrong", {"loss.w_lm": 0}), 0, Workspace(PARAMS, "data"))
    with pytest.raises(ValueError, match=r"no key loss.w_lm, which the row wrong changes"):
        run.params  # noqa: B018


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
    source = ROWS[f"teacher-{100 * accuracy:.0f}"].changes["+sentences.sources.file"]
    assert source == {"path": f"data/ablations/teachers/{accuracy}.jsonl"}


def test_no_two_rows_are_the_same_run():
    runs = [str(sorted((row.shared | row.changes).items())) for row in ROWS.values()]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.against])
def test_a_row_has_the_length_and_seeds_of_its_reference(name):
    row, other = ROWS[name], ROWS[ROWS[name].against]
    assert row.shared == other.shared and other.seeds >= row.seeds


def test_a_short_row_is_measured_on_development_prompts_and_a_full_one_on_those_of_params_yaml():
    for name, row in ROWS.items():
        params = Run(name, row, 0, Workspace(PARAMS, "data")).params
        full = name.startswith("full")
        expected = at(PARAMS, "generate.prompts"), at(PARAMS, "train.steps")
        assert (at(params, "generate.prompts"), at(params, "train.steps")) == (expected if full else (DEVELOPMENT, STEPS))
        assert full or at(params, "generate.per_category") == PROMPTS


def test_the_first_seed_of_every_row_runs_before_the_second():
    rows = {name: ROWS[name] for name in ("ours", "full")}
    names = [f"{name}-{seed}" for name, seed in in_order(rows)]
    assert names == ["ours-0", "full-0", "ours-1", "full-1", "ours-2", "full-2", "full-3", "full-4"]
    assert list(in_order(rows, seeds=2)) == [("ours", 0), ("full", 0), ("ours", 1), ("full", 1)]


def test_rows_train_and_draw_with_their_adapter_share_the_other_images_and_run_once(workspace, capsys):
    rows = {"ours": Row("default", seeds=2, shared={}), "no-llm": Row("w_llm 0", {"loss.w_llm": 0.0}, 1, {})}
    results, execute = Results(workspace / "results.csv", workspace / "README.md"), InThisProcess()
    assert run_rows(rows, results, execute, seeds=1)
    assert execute.names() == ["train", "generate", "generate", "evaluate", "train", "generate", "evaluate"]
    train, shared, adapted, evaluate = execute.commands[:4]
    assert train[1:3] == ["--clip", "data/features/clip"] and train[-4:] == ["--out", "ours-s0/adapter", "--reports", "ours-s0/train"]
    assert shared[1:4] == ["--arms", "baseline", "complex"] and "--adapter" not in shared
    assert adapted[1:4] == ["--arms", "adapter", "complex_adapter"] and "ours-s0/adapter" in adapted
    assert evaluate[-2:] == ["--out-dir", "ours-s0/reports"]
    runs = results.read().set_index("row")
    assert list(runs.index) == ["no-llm", "ours"] and runs.base.nunique() == 1 and runs.settings.nunique() == 2
    for name in rows:
        written = json.loads(Path(f"data/ablations/{name}-s0/reports/metrics.json").read_text())
        assert runs.reasoning[name] == written["sets"]["reasoning"]["adapter"]["overall"]["value"]
        assert runs.overall[name] == written["semantic"]["overall"]["adapter"]["value"]
        history = json.loads(Path(f"data/ablations/{name}-s0/train/history.json").read_text())
        assert runs.loss_of_pairs[name] == history[-1]["validation_loss"]
        config = json.loads(Path(f"data/ablations/{name}-s0/adapter/config.json").read_text())
        assert config["about"]["loss"]["w_llm"] == float(name == "ours") and config["about"]["train"]["seed"] == 0
    unknown = {"gap", "on_complex"}  # few prompts
    known = runs[[figure for figure in FIGURES if figure not in unknown]].notna()
    assert known.drop(columns="loss_of_text").all(axis=None)
    assert known.loss_of_text["ours"] and not known.loss_of_text["no-llm"], "without an LLM's loss there is none to validate"

    page = Path("README.md").read_text(encoding="utf-8")
    assert ROWS["no-llm"].label in page and page == format_page(results.read())
    again = InThisProcess()
    assert run_rows(rows, results, again, seeds=1) and again.commands == []
    assert "2 of 2 runs are finished" in capsys.readouterr().out
    put(values := deepcopy(PARAMS), TINY | {"adapter.depth": 1, "adapter.heads": 2, "loss.sentences": 4, "train.lr": 0.001})
    YAML(typ="safe").dump(values, Path("params.yaml"))
    run_rows({"ours": rows["ours"]}, results, again, seeds=1)
    assert again.names() == ["train", "generate", "evaluate"], "another learning rate trains again, and shares the same images"
    cached_sentences(Path("data/features/sentences"), [-0.2] * 16)
    assert not results.has("ours", 0, Run("ours", rows["ours"], 0, Workspace()).settings), "other features make other runs"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"loss.w_llm": 0.1, "train.lr": 1e-5}, []),
        ({"sentences.sources.miniature.count": 100}, ["sentences"]),
        ({"loss.llm": "decoded"}, ["sentences", "llm"]),
        ({"loss.w_diffusion": 1.0}, ["vae"]),
    ],
)
def test_features_are_computed_where_a_row_needs_others_and_once_for_all_its_seeds(workspace, changes, parts):
    commands = []

    def note(words: list[str], params: Path, log: Path) -> None:
        commands.append(words)
        assert at(YAML(typ="safe").load(params), next(iter(changes))) == next(iter(changes.values()))
        if words[0] == "evaluate":
            raise CommandError("enough")
        if words[0] == "generate":
            out = Path(words[words.index("--out") + 1])
            for arm in words[2 : words.index("--prompts")]:
                (out / arm).mkdir(parents=True)

    def option(words: list[str], name: str) -> str:
        return words[words.index(f"--{name}") + 1]

    for row in ("a", "b"):
        Path(DEVELOPMENT).mkdir(parents=True, exist_ok=True)
        for seed in range(2):
            with pytest.raises(CommandError):
                Run(row, Row(row, changes, shared={}), seed, Workspace()).execute(note)
    cached = [words for words in commands if words[0] == "cache"]
    assert [option(words, "features") for words in cached] == parts
    assert [words[0] for words in commands].count("sentences") == ("sentences.sources.miniature.count" in changes)
    for words in (words for words in commands if words[0] == "train"):
        for part in PARTS:
            own = [option(other, "out") for other in cached if option(other, "features") == part]
            assert option(words, part) == (own[0] if own else f"data/features/{part}")


@pytest.mark.parametrize(("status", "is_it"), [("{}", True), ('{"train": [{"changed deps": {"params.yaml": {}}}]}', False), ("", False)])
def test_the_default_with_the_seed_of_the_pipeline_is_its_finished_run(workspace, capsys, monkeypatch, status, is_it):
    asked = []

    def dvc(words: list[str], **_) -> subprocess.CompletedProcess:
        asked.append(words[2:])
        return subprocess.CompletedProcess(words, 0 if status else 1, status)

    monkeypatch.setattr("experiments.ablations.runs.subprocess.run", dvc)
    Path("reports/train").mkdir()
    Path("reports/metrics.json").write_text(json.dumps(metrics(0.87)))
    Path("reports/train/history.json").write_text(json.dumps([{"step": 1}, {"step": 2, "validation_loss": 0.08}]))
    rows = {"full": Row("default", seeds=2, shared={}), "full-no-llm": Row("w_llm 0", {"loss.w_llm": 0.0}, 1, {})}
    results, commands = Results(workspace / "results.csv", workspace / "README.md"), []

    def note(words: list[str], params: Path, log: Path) -> None:
        commands.append(words)
        raise CommandError("enough")

    assert not run_rows(rows, results, note)
    assert [words[0] for words in commands] == ["train"] * (2 if is_it else 3), "another row, and another seed, are other runs"
    assert asked == [["dvc", "status", "--json", "--with-deps", "evaluate"]]
    runs = results.read()
    assert runs[["row", "seed", "gap", "loss_of_pairs"]].values.tolist() == ([["full", 0, 0.87, 0.08]] if is_it else [])
    assert ("full, seed 0: gap closed 0.87, of `dvc repro`" in capsys.readouterr().out) == is_it and runs.seconds.isna().all()


def test_a_failed_run_shows_its_last_lines_and_the_others_go_on(workspace, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    rows = {name: Row(name, {"sentences.held_out": [f"prompts/{name}"]}, 1, {}) for name in ("a", "b")}
    assert not run_rows(rows, Results(Path("results.csv"), Path("README.md")), Processes(1), jobs=2)
    output = capsys.readouterr().out
    assert output.count("seed 0: failed") == 2 and all(
        f"error: params.yaml: sentences.held_out: prompts/{name} is missing" in output for name in rows
    )
    assert not Path("results.csv").exists()


def test_a_run_without_features_is_refused(results):
    shutil.copy(ROOT / "params.yaml", ".")
    with pytest.raises(FileNotFoundError, match="data/features/clip holds no features: run `dvc repro` first"):
        run_rows({"ours": ROWS["ours"]}, results, InThisProcess())


def test_an_unknown_row_is_refused_with_the_next_known_one():
    with pytest.raises(ValueError, match=r"there is no row 'no-lm' \(did you mean 'no-llm'\?\)"):
        main(["run", "no-lm"])
    with pytest.raises(ValueError, match="--jobs is 0 and --seeds None: give at least 1"):
        main(["run", "ours", "--jobs", "0"])


def raises(error: Exception) -> bool:
    raise error


@pytest.mark.parametrize(
    ("main", "code"),
    [
        (lambda argv: True, 0),
        (lambda argv: False, 1),
        (lambda argv: raises(ValueError("one sentence")), "error: one sentence"),
        (lambda argv: raises(FileNotFoundError("no features")), "error: no features"),
        (lambda argv: os.kill(os.getpid(), signal.SIGTERM), "stopped: the same command continues"),
    ],
)
def test_the_command_ends_with_one_sentence_also_if_it_is_stopped(main, code):
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            run_command(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == code


def test_a_run_replaces_an_earlier_one_and_counts_as_finished_with_its_settings_only(results):
    results.add("ours", 0, metrics(0.5), about(settings="x"))
    results.add("kl", 1, metrics(0.2), about())
    results.add("ours", 0, metrics(0.6), about(settings="y"))
    runs = results.read()
    assert runs[["row", "seed", "gap"]].values.tolist() == [["kl", 1, 0.2], ["ours", 0, 0.6]]
    assert list(runs.columns) == ["row", "seed", *FIGURES, *ABOUT] and runs.notna().all(axis=None)
    assert results.has("ours", 0, "y") and results.has("ours", 0, "y", "c")
    assert not results.has("ours", 0, "x") and not results.has("ours", 1, "y") and not results.has("ours", 0, "y", "d")


def test_the_interval_is_that_of_students_t():
    mean, half = interval([0.5, 0.6, 0.7])
    assert mean == pytest.approx(0.6) and half == pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4)
    assert np.isnan(interval([0.5])[1])


def test_a_difference_is_on_the_same_seeds_and_bold_if_its_interval_excludes_0(results):
    gaps = {"ours": (0.5, 0.6, 0.7), "kl": (0.1, 0.21, 0.3), "no-llm": (0.6, 0.5, 0.7), "depth-4": (0.8,)}
    for row, values in gaps.items():
        for seed, gap in enumerate(values):
            results.add(row, seed, metrics(gap, reasoning=0.3 + 0.01 * seed if row == "no-llm" else 0.5), about())
    page = results.page.read_text(encoding="utf-8")
    lines = {line.split(" | ")[0][2:]: line for line in page.splitlines() if line.startswith("| ")}
    assert "| 3 | 0.60 ± 0.25 |  | 0.500 ± 0.000 |  | 0.500 |" in lines[ROWS["ours"].label]
    assert "**-0.40 [-0.41, -0.38]**" in lines[ROWS["kl"].label] and '`loss.prompt="kl"`' in lines[ROWS["kl"].label]
    assert "| +0.00 [-0.25, +0.25] | 0.310 ± 0.025 | **-0.190 [-0.215, -0.165]** |" in lines[ROWS["no-llm"].label]
    assert all(lines[ROWS[row].label].endswith("| -0.010 | 0.0800 | 0.1600 |") for row in gaps)
    assert "| 1 | 0.80 | +0.30 |" in lines[ROWS["depth-4"].label]
    assert ROWS["published"].label not in lines, "this row has not run"
    assert "took 1.5 minutes (median of 10)" in page and "versions of the code" not in page


def test_the_difference_is_relative_to_the_reference_row(results):
    for row, gaps in {"kl": (0.1, 0.2), "kl-mask": (0.0, 0.1), "ours": (0.5, 0.5)}.items():
        for seed, gap in enumerate(gaps):
            results.add(row, seed, metrics(gap), about(code=row))
    page = results.page.read_text(encoding="utf-8")
    assert "**-0.10 [-0.10, -0.10]** from: prompt loss `kl`, the paper's |" in page and "of 3 versions of the code" in page


def test_each_table_has_only_runs_of_the_params_of_the_last_run_and_of_the_features_of_its_own_last_one(results):
    runs = [("full", "p", "a"), ("kl", "p", "a"), ("ours", "p", "b"), ("keep-0", "p", "b")]
    for day, (row, params, base) in enumerate(runs, 1):
        results.add(row, 0, metrics(0.1 * day), about(params=params, base=base, finished=f"2026-01-0{day}T00:00:00"))
    assert shown(results) == {"full", "ours", "keep-0"}, "kl started from other features; full did too, and is not compared with short runs"
    results.add("depth-4", 0, metrics(0.5), about(params="q", base="c", finished="2026-01-05T00:00:00"))
    assert shown(results) == {"depth-4"} and len(results.read()) == 5


def shown(results: Results) -> set[str]:
    lines = results.page.read_text(encoding="utf-8").splitlines()
    return {name for name, row in ROWS.items() if any(line.startswith(f"| {row.label} |") for line in lines)}


def test_neither_git_nor_dvc_sees_the_files_of_runs():
    ignored = subprocess.run(["git", "check-ignore", "-q", "data/ablations/ours-s0/params.yaml"], cwd=ROOT)
    assert ignored.returncode == 0
    text = (ROOT / "dvc.yaml").read_text(encoding="utf-8")
    assert "data/ablations" not in text and not any(line.strip() in ("- data", "- data/") for line in text.splitlines())


def test_the_committed_table_is_that_of_the_results():
    folder = ROOT / "experiments/ablations"
    assert (folder / "README.md").read_text(encoding="utf-8") == format_page(Results(folder / "results.csv", folder / "README.md").read())
