"""Rewrites sentences into keyword prompts with a causal language model, greedily, and takes its hidden states while it answers.

    answers = Rewriter(RewriterConfig(stop=(".",)), "models/miniature/llama").rewrite(["as many stars as a triangle has corners"])
    answers[0].answer  # "3 stars"

Sentences are sorted by length and answered in batches, with padding on the left. What all prompts begin with, such as examples, is read
once. Which sentences share a batch is a function of the list, so the same list gives the same bytes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from math import nan
from os.path import commonprefix
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from sur_adapter.io.shards import batched
from sur_adapter.models.answer_choices import ChoiceTrie, pick_tokens, read_choices
from sur_adapter.models.llm import (
    LanguageModel,
    LLMConfig,
    decoder_blocks,
    load_config,
    load_llm,
    max_length,
    num_layers,
    resolve_precision,
    select_layers,
)
from sur_adapter.models.rewrite_prompt import RewritePrompt, RewriterConfig
from sur_adapter.models.torch_utils import compute_dtype

MIN_PREFIX = 8  # tokens; a shorter common beginning of the prompts is not worth a cache of its own


@dataclass(frozen=True)
class Answer:
    """What the model answered to a sentence.

    answer: the keyword prompt; without an end, as far as it went. mean_logprob, min_logprob: natural log-probabilities of its tokens and of
    its end, among all tokens of the model; NaN without any. reason: None, "unparsable" (empty, or no end within max_new_tokens) or
    "too_long" (for the model). states: column -> (d_llm,) fp32, or with pooling `tokens` (T, d_llm); empty without layers or if there
    is a reason.
    """

    answer: str
    mean_logprob: float
    min_logprob: float
    reason: str | None
    states: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class _Draft:
    """An answer in the making. node: where it is among the allowed answers; None: it is free. tokens: without the end."""

    node: ChoiceTrie | None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    text: str | None = None  # the whole answer, once it has ended
    done: bool = False


class Rewriter:
    """A causal language model of transformers with the instruction of a config.

    model: folder or name on the hub. llm: which layers' states are taken, how they are pooled and how weights are loaded; None: no
    states.
    Raises ValueError for layers that the model does not have and for bad choices, FileNotFoundError if there is no such model or file.
    """

    def __init__(self, config: RewriterConfig, model: str, device: str = "cpu", llm: LLMConfig | None = None):
        self.config = config
        self.dtype = compute_dtype(device, resolve_precision(config.precision, device))
        model_config = load_config(model)
        depth = num_layers(model_config)
        self.layers = select_layers(llm.layers, depth, model) if llm and llm.layers else []
        self.pooling = llm.pooling if self.layers else "last"
        loading = llm or LLMConfig(layers="all")
        self.tokenizer, self.model = load_llm(AutoModelForCausalLM, model, model_config, loading, self.dtype, device)
        self.blocks = decoder_blocks(self.model.base_model, depth)
        self.max_length = max_length(self.tokenizer, self.model)
        self.prompt = RewritePrompt(config, self.tokenizer)
        ends = getattr(self.model.generation_config, "eos_token_id", None)
        ends = {*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id} - {None}
        self.ends = sorted(token for token in ends if token < model_config.get_text_config().vocab_size)
        self.choices = self._trie(read_choices(Path(config.choices), config.stop)) if config.choices else None
        self.reader = LanguageModel.of_loaded(self.tokenizer, self.model.base_model, llm, model) if self.pooling == "prompt_eol" else None
        self.prefix: list[int] = commonprefix(self._encode_prompts(["a", "two 2"]))
        self.prefix_cache = cache(self._read_prefix)
        self.may_end = cache(self._may_end)

    @property
    def columns(self) -> list[str]:
        """The names of the states: layer_<k>, or layernorm_mean."""
        return ["layernorm_mean"] if self.pooling == "layernorm-mean" else [f"layer_{k}" for k in self.layers]

    @torch.no_grad()
    def rewrite(self, sentences: list[str], answers: list[str | None] | None = None) -> list[Answer]:
        """Answers each sentence, in their order. answers: ready ones, which the model only reads; None where it is asked."""
        prompts = self._encode_prompts(sentences)
        nodes = [self.choices] * len(sentences)
        for row, answer in enumerate(answers or ()):
            if answer is not None:
                nodes[row] = self._trie([answer.strip()])
        results: list[Answer | None] = [None] * len(sentences)
        fitting = []
        for row, (ids, node) in enumerate(zip(prompts, nodes, strict=True)):
            if len(ids) + (node.depth if node else self.config.max_new_tokens + 1) <= self.max_length:
                fitting.append(row)
            else:
                results[row] = Answer("", nan, nan, "too_long")
        for rows in batched(sorted(fitting, key=lambda row: (-len(prompts[row]), row)), self.config.batch_size):
            for row, answer in zip(rows, self._answer([prompts[r] for r in rows], [nodes[r] for r in rows]), strict=True):
                results[row] = answer
        return self._read_states(results) if self.reader else results

    def _encode_prompts(self, sentences: list[str]) -> list[list[int]]:
        """Tokenizes the prompts; those of a chat have their special tokens in the text."""
        if not sentences:
            return []
        texts = [self.prompt(sentence) for sentence in sentences]
        ids = self.tokenizer(texts, add_special_tokens=not self.prompt.chat, verbose=False).input_ids
        end = self.tokenizer.eos_token_id
        return [row[:-1] if len(row) > 1 and row[-1] == end and not self.prompt.chat else row for row in ids]

    def _trie(self, answers: list[str]) -> ChoiceTrie:
        def encode(texts: list[str]) -> list[list[int]]:
            return self.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids

        words = [self.prompt.gap + text for text in answers]
        return ChoiceTrie.of(words, f"a{self.prompt.after}", self.ends, self.config.stop, encode)

    def _answer(self, prompts: list[list[int]], nodes: list[ChoiceTrie | None]) -> list[Answer]:
        """Answers a batch of prompts, given by their tokens, longest first."""
        drafts = [_Draft(node) for node in nodes]
        rows = list(range(len(prompts)))  # the drafts that are in the cache
        steps: list[Tensor] = []  # of each token of the answers: (layers, B, d_llm)
        logits, mask, kv = self._read_prompts(prompts)
        while True:
            logprobs = logits.float().log_softmax(-1)  # (rows, vocabulary)
            tokens = pick_tokens(logprobs, [None if drafts[row].done else drafts[row].node for row in rows])
            chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
            for row, token, logprob in zip(rows, tokens.tolist(), chosen, strict=True):
                self._extend(drafts[row], token, logprob)
            kept = [k for k, row in enumerate(rows) if not drafts[row].done]
            if not kept:
                break
            if 2 * len(kept) <= len(rows):  # finished rows are removed where that pays
                index = torch.tensor(kept, device=mask.device)
                kv.batch_select_indices(index)
                tokens, mask, rows = tokens[index], mask[index], [rows[k] for k in kept]
            mask = F.pad(mask, (0, 1), value=1)
            with self._captured() as states:
                logits = self._forward(tokens[:, None], mask, kv)
            if states:
                step = torch.stack([states[k] for k in self.layers])
                steps.append(torch.zeros(len(step), len(drafts), step.shape[-1]).index_copy_(1, torch.tensor(rows), step))
        return [self._finish(draft, [step[:, row] for step in steps[: len(draft.tokens)]]) for row, draft in enumerate(drafts)]

    def _read_prompts(self, prompts: list[list[int]]) -> tuple[Tensor, Tensor, DynamicCache]:
        """Reads prompts: the logits of the next token (B, vocabulary), the attention mask (B, T) and the cache of keys and values."""
        n = len(self.prefix)
        shared = n >= MIN_PREFIX and all(ids[:n] == self.prefix and len(ids) > n for ids in prompts)
        kv = DynamicCache()
        if shared:
            kv = deepcopy(self.prefix_cache())
            kv.batch_repeat_interleave(len(prompts))
            prompts = [ids[n:] for ids in prompts]
        longest = max(map(len, prompts))
        device = self.model.get_input_embeddings().weight.device
        padded = torch.tensor([[0] * (longest - len(ids)) + ids for ids in prompts], device=device)  # (B, T)
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        mask = F.pad(mask, (n if shared else 0, 0), value=1)
        return self._forward(padded, mask, kv), mask, kv

    def _read_prefix(self) -> DynamicCache:
        kv, device = DynamicCache(), self.model.get_input_embeddings().weight.device
        self._forward(torch.tensor([self.prefix], device=device), torch.ones(1, len(self.prefix), dtype=torch.long, device=device), kv)
        return kv

    def _forward(self, ids: Tensor, mask: Tensor, kv: DynamicCache) -> Tensor:
        """Reads tokens (B, T) after the cached ones; the logits of the next token, (B, vocabulary). mask (B, all tokens): not padding."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options = {"position_ids": positions, "past_key_values": kv, "use_cache": True, "logits_to_keep": 1}
        return self.model(input_ids=ids, attention_mask=mask, **options).logits[:, -1]

    @contextmanager
    def _captured(self) -> Iterator[dict[int, Tensor]]:
        """Yields a dict that holds, after a forward pass of one token, layer -> (B, d_llm) fp32 on the CPU."""
        states: dict[int, Tensor] = {}

        def store(k: int, output: Tensor | tuple) -> None:
            states[k] = (output[0] if isinstance(output, tuple) else output)[:, -1].float().cpu()

        layers = [] if self.reader else self.layers
        hooks = [self.blocks[k - 1].register_forward_hook(lambda _m, _i, output, k=k: store(k, output)) for k in layers]
        try:
            yield states
        finally:
            for hook in hooks:
                hook.remove()

    def _extend(self, draft: _Draft, token: int, logprob: float) -> None:
        """Adds a token to an answer, or ends it."""
        if draft.done:
            return
        draft.logprobs.append(logprob)
        if draft.node is not None:
            draft.node = draft.node.children[token]
            draft.text = draft.node.text
        elif token in self.ends:
            draft.text = self.tokenizer.decode(draft.tokens, skip_special_tokens=True)
        elif self.may_end(token):
            text = self.tokenizer.decode([*draft.tokens, token], skip_special_tokens=True)
            found = [text.index(stop) for stop in self.config.stop if stop in text]
            draft.text = text[: min(found)] if found else None
        if draft.text is None:
            draft.tokens.append(token)
        draft.done = draft.text is not None or (draft.node is None and len(draft.tokens) > self.config.max_new_tokens)

    def _may_end(self, token: int) -> bool:
        """Tells whether a stop may end with a token: it holds the last character of one, or a part of a character."""
        text = self.tokenizer.decode([token])
        return "\ufffd" in text or any(stop[-1] in text for stop in self.config.stop)

    def _finish(self, draft: _Draft, steps: list[Tensor]) -> Answer:
        """Returns the answer of a draft that is done. steps: the states (layers, d_llm) of each token."""
        ended = bool(draft.text and draft.text.strip())
        text = (draft.text or self.tokenizer.decode(draft.tokens, skip_special_tokens=True)).strip()
        states = _pool(torch.stack(steps, 1), self.layers, self.pooling) if ended and steps else {}
        return Answer(text, sum(draft.logprobs) / len(draft.logprobs), min(draft.logprobs), None if ended else "unparsable", states)

    def _read_states(self, answers: list[Answer]) -> list[Answer]:
        """Takes the states of the answers as prompts of their own (pooling `prompt_eol`); each distinct one is read once."""
        texts = list(dict.fromkeys(answer.answer for answer in answers if answer.reason is None))
        read = self.reader(texts) if texts else {}
        row = {text: k for k, text in enumerate(texts)}
        return [a if a.reason else replace(a, states={name: values[row[a.answer]] for name, values in read.items()}) for a in answers]


def _pool(states: Tensor, layers: list[int], pooling: str) -> dict[str, Tensor]:
    """Pools the states (layers, T, d_llm) of an answer's tokens, as models/llm.py those of a prompt."""
    if pooling == "layernorm-mean":
        return {"layernorm_mean": F.layer_norm(states, states.shape[-1:]).mean((0, 1))}
    pool = {"last": lambda s: s[-1], "mean": lambda s: s.mean(0), "tokens": lambda s: s}[pooling]
    return {f"layer_{k}": pool(s) for k, s in zip(layers, states, strict=True)}
