"""The rewriter: choices, log-probabilities and states equal those of the whole model read at once, and batches do not matter."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import tiny_models as tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from sur_adapter.config import from_dict
from sur_adapter.models import rewriter as module
from sur_adapter.models.answer_choices import ChoiceTrie
from sur_adapter.models.llm import EOL_TEMPLATE, LanguageModel, LLMConfig
from sur_adapter.models.rewriter import Rewriter, RewriterConfig

SENTENCES = ["a cat", "three green stars in a row under two blue squares", "two blue squares", "a pair of red circles", "a cat"]
CHOICES = ["3 green stars", "3 green stars, red circle", "green", "2 blue squares", "a cat, sitting", "1 red circle"]
EXAMPLES = [{"sentence": "there is a red circle", "answer": "1 red circle"}, {"sentence": "two cats", "answer": "2 cats"}]
CHAT = "{% for m in messages %}[{{ m.role }}]\n{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"


@pytest.fixture(scope="module", params=tiny.LLMS)
def model(request, tmp_path_factory) -> str:
    return tiny.llm(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> str:
    return tiny.llm(tmp_path_factory.mktemp("llama"), "Llama")


@pytest.fixture(scope="module")
def choices(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("choices") / "choices.txt"
    file.write_text("\n".join(CHOICES) + "\n\n" + CHOICES[0])
    return str(file)


def load(model: str, states: dict | None = None, **settings) -> Rewriter:
    llm = from_dict(LLMConfig, states, "cache.llm") if states else None
    return Rewriter(from_dict(RewriterConfig, {"stop": ["."]} | settings, "cache.sentences"), model, llm=llm)


@torch.no_grad()
def read_at_once(folder: str, prompt: list[int], answer: list[int]) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """log-probabilities of the next token at each place of the answer, (n + 1, vocabulary), and layer -> states of its tokens, (n, d)."""
    llm, states = AutoModelForCausalLM.from_pretrained(folder).eval(), {}
    blocks = llm.model.layers if hasattr(llm, "model") else llm.transformer.h
    for k, block in enumerate(blocks, 1):
        block.register_forward_hook(lambda _m, _i, out, k=k: states.update({k: out[0] if isinstance(out, tuple) else out}))
    logits = llm(torch.tensor([prompt + answer])).logits[0]
    return logits[len(prompt) - 1 :].log_softmax(-1), {k: v[0, len(prompt) :] for k, v in states.items()}


def test_choices_constrain_the_answer_and_its_log_probabilities_and_states_are_those_of_one_pass(model, choices):
    tokenizer = AutoTokenizer.from_pretrained(model)
    rewriter = load(model, {"layers": [1, 3], "pooling": "tokens"}, choices=choices, batch_size=3)
    for sentence, answer in zip(SENTENCES, rewriter.rewrite(SENTENCES), strict=True):
        assert answer.answer in CHOICES and answer.reason is None
        prompt, whole = tokenizer(f"{sentence} means").input_ids, tokenizer(f"{sentence} means {answer.answer}").input_ids
        assert whole[: len(prompt)] == prompt, "the answer continues the prompt as if both were written at once"
        logprobs, states = read_at_once(model, prompt, whole[len(prompt) :])
        ends = [tokenizer(f"{sentence} means {answer.answer}.").input_ids[-1], tokenizer.eos_token_id]
        taken = [logprobs[i, token] for i, token in enumerate(whole[len(prompt) :])] + [logprobs[-1, ends].max()]
        assert answer.min_logprob == pytest.approx(min(taken).item(), abs=1e-4)
        assert answer.mean_logprob == pytest.approx(sum(taken).item() / len(taken), abs=1e-4)
        for k in (1, 3):
            assert torch.allclose(answer.states[f"layer_{k}"], states[k], rtol=1e-4, atol=1e-4)


def test_the_greedy_path_through_the_choices_is_taken(llama, choices):
    tokenizer, rewriter = AutoTokenizer.from_pretrained(llama), load(llama, choices=choices)
    paths = {}
    for text in CHOICES:
        body = tokenizer(f"a means {text}").input_ids[len(tokenizer("a means").input_ids) :]
        paths |= {(*body, end): text for end in (tokenizer("a.").input_ids[-1], tokenizer.eos_token_id)}
    for sentence, answer in zip(SENTENCES, rewriter.rewrite(SENTENCES), strict=True):
        prompt, taken = tokenizer(f"{sentence} means").input_ids, ()
        while taken not in paths:
            allowed = sorted({path[len(taken)] for path in paths if path[: len(taken)] == taken})
            logprobs, _ = read_at_once(llama, prompt, list(taken))
            taken += (allowed[logprobs[-1, allowed].argmax()],)
        assert answer.answer == paths[taken]
    assert len({answer.answer for answer in rewriter.rewrite([f"{a} {b}" for a in SENTENCES for b in SENTENCES])}) > 1


def test_a_free_answer_is_the_greedy_one_and_ends_at_a_stop(model):
    tokenizer, llm = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model).eval()
    (free,) = load(model, stop=["\ue000"], max_new_tokens=8).rewrite(["two blue squares"])
    ids = tokenizer("two blue squares means", return_tensors="pt").input_ids
    expected = llm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    greedy = expected[0, ids.shape[1] :].tolist()
    if free.reason:
        assert free.answer == tokenizer.decode(greedy, skip_special_tokens=True).strip() and free.states == {}
    text = tokenizer.decode(greedy[:6], skip_special_tokens=True)
    stop = text.strip()[-1]
    (stopped,) = load(model, stop=[stop, "\ue000"], max_new_tokens=8).rewrite(["two blue squares"])
    assert stopped.answer == text.partition(stop)[0].strip() and (stopped.reason is None) == bool(stopped.answer)


def test_an_answer_without_text_or_end_is_unparsable_and_a_sentence_beyond_the_context_is_too_long(llama):
    rewriter = load(llama, {"layers": [2], "pooling": "last"}, max_new_tokens=4, stop=["\ue000"])
    eos = rewriter.tokenizer.eos_token_id
    forward = rewriter._forward
    rewriter._forward = lambda *args: forward(*args).index_fill(1, torch.tensor([eos]), 1e4)
    (empty,) = rewriter.rewrite(["a cat"])
    assert empty.reason == "unparsable" and empty.answer == "" and empty.min_logprob == 0
    rewriter._forward = lambda *args: forward(*args).index_fill(1, torch.tensor([eos]), -1e4)
    endless, long = rewriter.rewrite(["a cat", "a cat " * 60])
    assert endless.reason == "unparsable" and endless.answer and endless.states == {}
    assert long.reason == "too_long" and math.isnan(long.min_logprob) and long.answer == ""
    assert rewriter.rewrite([]) == []


@pytest.mark.parametrize("settings", [{}, {"examples": EXAMPLES[:1], "instruction": "keywords\n\na: {sentence}\nb:"}])
def test_the_batch_does_not_change_an_answer(model, choices, settings):
    states = {"layers": "all", "pooling": "mean"}
    together = load(model, states, choices=choices, **settings).rewrite(SENTENCES)
    alone = load(model, states, choices=choices, batch_size=1, **settings)
    for sentence, answer in zip(SENTENCES, together, strict=True):
        (other,) = alone.rewrite([sentence])
        assert answer.reason is None and other.answer == answer.answer and other.min_logprob == pytest.approx(answer.min_logprob, abs=1e-4)
        for name, values in answer.states.items():
            assert torch.allclose(values, other.states[name], rtol=1e-4, atol=1e-4)


def test_a_common_beginning_is_read_once_and_changes_nothing(llama, choices, monkeypatch):
    settings = {"examples": EXAMPLES, "instruction": "Sentence: {sentence}\nKeywords: ", "choices": choices}
    shared = load(llama, {"layers": [4]}, **settings)
    read = []
    monkeypatch.setattr(
        Rewriter, "_forward", lambda self, ids, *args, call=Rewriter._forward: read.append(ids.shape) or call(self, ids, *args)
    )
    answers = shared.rewrite(SENTENCES[:3])
    assert read[0] == (1, len(shared.prefix)) and len(shared.prefix) > 30 and read[1][0] == 3 and read[1][1] < 30
    monkeypatch.setattr(module, "MIN_PREFIX", 1000)
    for answer, other in zip(answers, load(llama, {"layers": [4]}, **settings).rewrite(SENTENCES[:3]), strict=True):
        assert answer.answer == other.answer and answer.mean_logprob == pytest.approx(other.mean_logprob, abs=1e-4)
        assert torch.allclose(answer.states["layer_4"], other.states["layer_4"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["last", "mean", "layernorm-mean", "prompt_eol"])
def test_states_are_pooled_over_the_tokens_of_the_answer(model, choices, pooling):
    tokens = load(model, {"layers": [2, 4], "pooling": "tokens"}, choices=choices).rewrite(SENTENCES)
    pooled = load(model, {"layers": [2, 4], "pooling": pooling}, choices=choices).rewrite(SENTENCES)
    eol = LanguageModel(model, LLMConfig(layers=(2, 4), pooling="last"))([answer.answer.join(EOL_TEMPLATE) for answer in tokens])
    for row, (answer, states) in enumerate((a, t.states) for a, t in zip(pooled, tokens, strict=True)):
        if pooling == "layernorm-mean":
            expected = {"layernorm_mean": torch.stack([F.layer_norm(s, (32,)) for s in states.values()]).mean((0, 1))}
        elif pooling == "prompt_eol":
            expected = {name: values[row] for name, values in eol.items()}
        else:
            expected = {name: s[-1] if pooling == "last" else s.mean(0) for name, s in states.items()}
        assert answer.states.keys() == expected.keys()
        assert all(torch.allclose(answer.states[name], expected[name], rtol=1e-4, atol=1e-4) for name in expected)


def test_a_ready_answer_is_read_and_the_others_are_asked(llama, choices):
    rewriter = load(llama, {"layers": [4]}, choices=choices)
    asked = rewriter.rewrite(SENTENCES)
    again = rewriter.rewrite(SENTENCES, [asked[0].answer, None, "a new answer, with a rare word", None, None])
    assert [a.answer for a in again] == [
        asked[0].answer,
        asked[1].answer,
        "a new answer, with a rare word",
        asked[3].answer,
        asked[4].answer,
    ]
    assert torch.allclose(again[0].states["layer_4"], asked[0].states["layer_4"], rtol=1e-4, atol=1e-4)
    tokenizer = rewriter.tokenizer
    prompt, whole = (
        tokenizer("two blue squares means").input_ids,
        tokenizer("two blue squares means a new answer, with a rare word").input_ids,
    )
    _, states = read_at_once(llama, prompt, whole[len(prompt) :])
    assert torch.allclose(again[2].states["layer_4"], states[4][-1], rtol=1e-4, atol=1e-4)


def test_examples_and_header_are_shown_plainly_or_as_a_chat(llama, choices, tmp_path):
    settings = {"examples": EXAMPLES[:1], "instruction": "Write keywords.\n\nSentence: {sentence}\nKeywords: "}
    plain = load(llama, stop=["\n"], **settings)
    header = "Write keywords.\n\nSentence: there is a red circle\nKeywords: 1 red circle\n"
    assert plain.prompt("two {sentence}") == f"{header}Sentence: two {{sentence}}\nKeywords:" and plain.prompt.gap == " "
    tokenizer = AutoTokenizer.from_pretrained(llama)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path)
    AutoModelForCausalLM.from_pretrained(llama).save_pretrained(tmp_path)
    chat = load(str(tmp_path), choices=choices, **settings)
    first = "[user]\nWrite keywords.\n\nSentence: there is a red circle\nKeywords:\n[assistant]\n1 red circle\n"
    assert chat.prompt("a cat") == f"{first}[user]\nSentence: a cat\nKeywords:\n[assistant]\n" and chat.prompt.gap == ""
    assert chat.rewrite(["a cat"])[0].answer in CHOICES
    assert load(str(tmp_path), chat=False).prompt("a cat") == "a cat means"
    with pytest.raises(ValueError, match="cache.sentences.chat is true, but the tokenizer of models.llm has no chat template"):
        load(llama, chat=True)


def test_bad_settings_and_choices_are_refused_in_one_sentence(llama, tmp_path):
    files = {"empty": b"\n", "bad": b"\xe9", "stop": b"1. red"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    cases = [
        ({"keyword_prompt": "8k"}, "cache.sentences.keyword_prompt is '8k': write \\{answer\\} where the answer goes"),
        ({"instruction": "Rewrite:"}, "cache.sentences.instruction is 'Rewrite:': write {sentence}"),
        ({"stop": []}, "cache.sentences.stop is .*: give at least one text"),
        ({"batch_size": 0}, "cache.sentences.batch_size is 0: give at least 1"),
        ({"examples": [{"sentence": "a"}]}, r"cache.sentences.examples\[0\].answer is missing"),
        ({"choices": "nowhere"}, "cache.sentences.choices: nowhere is missing: write one allowed answer a line"),
        ({"choices": str(tmp_path / "empty")}, "empty holds no answer"),
        ({"choices": str(tmp_path / "bad")}, "bad is not text in UTF-8"),
        ({"choices": str(tmp_path / "stop")}, "stop: the answer '1. red' holds '.', one of cache.sentences.stop"),
    ]
    for settings, sentence in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            load(llama, **settings)
    with pytest.raises(ValueError, match="cache.llm.layers is \\[9\\], but .* has layers 1 to 4"):
        load(llama, {"layers": [9]})
    with pytest.raises(FileNotFoundError, match="models.llm is 'nowhere', where no model can be loaded"):
        load("nowhere")


def test_a_trie_ends_an_answer_where_the_tokenizer_merges_it_with_the_prompt_or_the_stop():
    vocabulary = {"a": 1, "a:": 2, "b": 3, "b.": 4, ".": 5, ":": 6}

    def encode(texts):  # greedy, longest first
        rows = []
        for text in texts:
            row = []
            while text:
                piece = next(p for p in sorted(vocabulary, key=len, reverse=True) if text.startswith(p))
                row.append(vocabulary[piece])
                text = text[len(piece) :]
            rows.append(row)
        return rows

    assert ChoiceTrie.of(["b"], "a", [9], (".",), encode).children[3].children.keys() == {9}
    assert ChoiceTrie.of(["b"], "a", [], (".",), encode).children[3].children.keys() == {5}
    assert ChoiceTrie.of([":b"], "a", [9], (".",), encode).children.keys() == {6}
    assert ChoiceTrie.of(["ab", "a"], "a", [9], (".",), encode).depth == 3
