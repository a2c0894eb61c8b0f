"""Features of sentences: the rewriter's answers and CLIP's features of both, the same bytes under every executor and after a kill."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import tiny_models as tiny
from helpers.small_models import digest
from helpers.stages import READS_ALL, run_stage

from sur_adapter.config import from_dict
from sur_adapter.features.extractors.sentences import Config, SentenceExtractor
from sur_adapter.features.store import FeatureStore
from sur_adapter.features.writer import weights_hash
from sur_adapter.io import schema
from sur_adapter.io.shards import read_table, write_table
from sur_adapter.io.work_cache import work_dir
from sur_adapter.models.llm import LLMConfig
from sur_adapter.models.rewriter import Rewriter, RewriterConfig

pytestmark = pytest.mark.usefixtures("own_work")
CHOICES = ["3 green stars", "1 red circle", "2 blue squares", "1 black cat, running"]
LLM = {"layers": [2, 4], "pooling": "mean"}
WORDS = READS_ALL | {"llm": "words"}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict:
    return tiny.models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def settings(tmp_path) -> dict:
    (tmp_path / "choices.txt").write_text("\n".join(CHOICES))
    return {"stop": ["."], "choices": str(tmp_path / "choices.txt"), "batch_size": 3}


def table(count: int = 14, **columns) -> pd.DataFrame:
    """Kept sentences; one in seven is too long for the model, one in four is of the validation split."""
    rows = [
        {
            "id": f"{k:016x}",
            "sentence": "a cat " * 50 if k % 7 == 6 else f"sentence {k} of {'two blue squares ' * (k % 3)}",
            "kind": "plain" if k % 2 else "reasoning/colour",
            "source": "file",
            "expected": None,
            "answer": None,
            "mean_logprob": None,
            "min_logprob": None,
            "split": "validation" if k % 4 == 3 else "train",
            "keep": True,
            "reason": None,
        }
        for k in range(count)
    ]
    return pd.DataFrame(rows).assign(**columns)


def cache(
    sentences: pd.DataFrame, out: Path, models: dict, executor: dict | None = None, llm: dict = LLM, loss: dict = READS_ALL, **settings
) -> Path:
    """Runs the stage on a table; the folder's name is that of the features."""
    file = out.parent / f"{out.name}.table.parquet"
    write_table(file, sentences)
    sections = {"cache": {"sentences": settings, "llm": llm}, "models": models, "loss": loss, "executor": executor}
    run_stage("cache", sections, features="sentences", sentences=file, out=out)
    return out


def test_features_are_the_rewriters_answers_and_states_and_clips_features_of_both_texts(tmp_path, models, settings, monkeypatch):
    monkeypatch.setattr(schema, "ROWS_PER_SHARD", 4)
    rows = table()
    rows.loc[5, "keep"] = False
    store = FeatureStore(cache(rows, tmp_path / "sentences", models, keyword_prompt="best, {answer}, 8k", **settings))
    store.verify()
    answers = read_table(tmp_path / "sentences/answers.parquet").set_index("id")
    kept = rows[rows.keep].set_index("id")
    assert sorted(answers.index) == sorted(kept.index) and (
        answers[["sentence", "kind", "split"]] == kept.loc[answers.index, ["sentence", "kind", "split"]]
    ).all(axis=None)
    assert answers.reason.dropna().to_dict() == {f"{k:016x}": "too_long" for k in (6, 13)}
    good = answers[answers.reason.isna()]
    assert store.ids == good.index.tolist() and store.split.tolist() == good["split"].tolist() and len(store) == 11
    assert len(answers) == len(store) + answers.reason.notna().sum(), "rows in = rows out + rows dropped"
    rewriter = Rewriter(from_dict(RewriterConfig, settings, ""), models["llm"], llm=LLMConfig(layers=(2, 4), pooling="mean"))
    expected, features = rewriter.rewrite(good.sentence.tolist()), store.rows(range(11))
    assert good.answer.tolist() == [answer.answer for answer in expected]
    np.testing.assert_allclose(good.min_logprob, [answer.min_logprob for answer in expected], atol=1e-4)
    np.testing.assert_array_equal(good.mean_logprob, features["mean_logprob"].numpy())
    for k in (2, 4):
        states = torch.stack([answer.states[f"layer_{k}"] for answer in expected])
        torch.testing.assert_close(features[f"layer_{k}"].float(), states, rtol=2**-9, atol=1e-3)
    keyword_prompts = [f"best, {answer}, 8k" for answer in good.answer]
    pairs = pd.DataFrame({"id": store.ids, "split": "train", "simple_prompt": good.sentence.tolist(), "complex_prompt": keyword_prompts})
    tiny.extract("clip", pairs, tmp_path / "clip", models)
    clip = FeatureStore(tmp_path / "clip")
    assert clip.names == [name for name in store.names if name.startswith(("simple", "complex"))]
    for name, values in clip.rows(range(11)).items():
        torch.testing.assert_close(features[name], values, rtol=2**-9, atol=1e-3)
    store.check_about(base_model=models["diffusion"], llm=models["llm"], llm_weights=weights_hash(rewriter.model), pooling="mean")
    assert store.about.items() >= clip.about.items()


@pytest.mark.parametrize("pooling", ["tokens", "layernorm-mean", "prompt_eol"])
def test_states_are_stored_for_every_pooling(tmp_path, models, settings, pooling):
    store = FeatureStore(cache(table(8), tmp_path / "sentences", models, llm={"layers": [2], "pooling": pooling}, **settings))
    column = "layernorm_mean" if pooling == "layernorm-mean" else "layer_2"
    values = store.rows(range(7))[column]
    assert values.shape[0] == 7 and values.shape[-1] == 32 and values.ndim == (3 if pooling == "tokens" else 2) and values.abs().max() > 0


def test_ready_answers_need_no_language_model_where_no_loss_reads_states(tmp_path, models, settings):
    ready = table(8, answer=[CHOICES[k % 4] for k in range(8)], min_logprob=[-0.5, *[None] * 7])
    nothing = models | {"llm": None}
    store = FeatureStore(cache(ready, tmp_path / "sentences", nothing, loss=WORDS))
    assert len(store) == 8 and not [name for name in store.names if name.startswith("layer")] and "llm" not in store.about
    logprobs = store.rows(range(8), ["min_logprob"])["min_logprob"]
    assert (logprobs[0] == -0.5) and logprobs[1:].isnan().all()
    with pytest.raises(ValueError, match="models.llm is null: name a language model"):
        cache(ready, tmp_path / "states", nothing)
    states = FeatureStore(cache(ready, tmp_path / "states", models, **settings))
    assert len(states) == 7 and states.rows([0], ["min_logprob"])["min_logprob"] == -0.5, "one is too long for the model"
    asked = ready.assign(answer=[None, *ready.answer[1:]])
    some = FeatureStore(cache(asked, tmp_path / "some", models, loss=WORDS, **settings))
    assert len(some) == 8 and some.rows([0], ["min_logprob"])["min_logprob"] != -0.5 and "layer_2" not in some.names


def test_without_sentences_the_folder_holds_an_empty_table_and_training_is_told(tmp_path, models, settings, monkeypatch):
    folder = cache(table(8), tmp_path / "sentences", models, **settings)
    cache(table(8).assign(keep=False), folder, models, **settings)
    assert [file.name for file in folder.iterdir()] == ["answers.parquet"] and read_table(folder / "answers.parquet").empty
    with pytest.raises(FileNotFoundError, match="sentences holds no answered sentence: name params.yaml: sentences.sources"):
        FeatureStore(folder)


def test_processes_and_a_store_give_the_same_bytes(tmp_path, models, settings, monkeypatch):
    monkeypatch.setattr(schema, "ROWS_PER_SHARD", 4)
    inline = digest(cache(table(), tmp_path / "inline", models, **settings))
    assert len(inline) == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    processes = {"kind": "processes", "workers": 2}
    assert digest(cache(table(), tmp_path / "processes", models, processes, **settings)) == inline
    staged = processes | {"workers": 1, "store": f"file://{tmp_path}/store"}
    assert digest(cache(table(), tmp_path / "staged", models, staged, **settings)) == inline


def test_a_killed_run_resumes_after_its_finished_shards_and_gives_the_same_bytes(tmp_path, models, settings, monkeypatch):
    monkeypatch.setattr(schema, "ROWS_PER_SHARD", 4)
    expected = digest(cache(table(), tmp_path / "undisturbed", models, **settings))
    answered, call, replace = [], SentenceExtractor.__call__, os.replace
    monkeypatch.setattr(SentenceExtractor, "__call__", lambda self, rows: answered.extend(rows["id"]) or call(self, rows))
    for moment in (2, 4, 3, 4):  # in the first shards, and while they are joined and published
        left = moment

        def killed(*paths):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            replace(*paths)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "replace", killed)
            write_table(tmp_path / "killed.table.parquet", table())
            cache(table(), tmp_path / "killed", models, **settings)
    assert digest(cache(table(), tmp_path / "killed", models, **settings)) == expected
    assert set(answered) == set(table().id) and len(answered) <= len(set(answered)) + 3 * 4, "only interrupted shards are computed again"
    assert not [path for path in work_dir().iterdir() if path.is_dir()]


def test_other_sentences_settings_or_choices_are_not_resumed(tmp_path, models, settings, monkeypatch):
    monkeypatch.setattr("sur_adapter.io.work_cache.WorkCache.publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    rows = table(8)

    def run(sentences, **changed):
        with pytest.raises(KeyboardInterrupt):
            cache(sentences, tmp_path / "sentences", models, **settings | changed)
        return len(list(work_dir().glob("cache-*/")))

    assert [run(rows), run(rows), run(rows.assign(kind="x")), run(rows, max_new_tokens=9)] == [1, 1, 2, 3]
    Path(settings["choices"]).write_text("\n".join(CHOICES[:2]))
    assert run(rows) == 4


def test_features_that_are_not_told_their_table_say_which_option_is_missing(tmp_path, models):
    sections = {"cache": {"llm": LLM, "clip": {}}, "models": models, "loss": READS_ALL, "executor": None}
    for features, option in (("sentences", "sentences"), ("clip", "raw")):
        with pytest.raises(ValueError, match=f"the features {features} need --{option}: name it"):
            run_stage("cache", sections, features=features, out=tmp_path / "out")
    assert Config(llm=None).batch_size == 256
