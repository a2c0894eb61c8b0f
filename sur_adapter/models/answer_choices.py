"""The answers that a language model may give, as a trie of tokens: greedy decoding follows it.

Each path from the root is one answer and the token that ends it, so that where one answer begins like another the model decides whether to
end. Tokens are those that the answer has after the prompt, where a word begins with its space.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

Encode = Callable[[list[str]], list[list[int]]]  # texts -> their token ids, without special tokens


class ChoiceTrie:
    """A node of the trie. children: token -> node. text: the answer, if the path to this node is a whole one with its end."""

    def __init__(self):
        self.children: dict[int, ChoiceTrie] = {}
        self.text: str | None = None
        self._allowed: Tensor | None = None

    @classmethod
    def of(cls, answers: list[str], before: str, ends: list[int], stops: tuple[str, ...], encode: Encode) -> "ChoiceTrie":
        """Builds the trie of some answers. before: the end of the prompt. ends: tokens that end an answer; stops: texts that do."""
        root = cls()
        for text, (ids, last) in zip(answers, _continuations(answers, before, ends, stops, encode), strict=True):
            node = root
            for token in ids:
                node = node.children.setdefault(token, cls())
            for token in last:
                node.children.setdefault(token, cls()).text = text
        return root

    @property
    def allowed(self) -> Tensor:
        """The tokens that may follow, (n,) int64, sorted."""
        if self._allowed is None:
            self._allowed = torch.tensor(sorted(self.children))
        return self._allowed

    @property
    def depth(self) -> int:
        """The number of tokens of the longest answer, its end included."""
        depth, level = 0, [self]
        while level := [child for node in level for child in node.children.values()]:
            depth += 1
        return depth


def _continuations(
    answers: list[str], before: str, ends: list[int], stops: tuple[str, ...], encode: Encode
) -> list[tuple[list[int], list[int]]]:
    """Returns for each answer its tokens after `before` and the tokens that may end it."""
    prefix = encode([before])[0] if before else []

    def after_prefix(texts: list[str]) -> list[list[int]]:
        joined = encode([before + text for text in texts])
        if all(ids[: len(prefix)] == prefix for ids in joined):
            return [ids[len(prefix) :] for ids in joined]
        return encode(texts)  # the first word would merge with the end of the prompt

    bodies = after_prefix(answers)
    last = [list(ends) for _ in answers]
    for stop in stops:
        for body, tokens, ids in zip(bodies, last, after_prefix([text + stop for text in answers]), strict=True):
            if ids[: len(body)] == body and len(ids) > len(body) and ids[len(body)] not in tokens:
                tokens.append(ids[len(body)])
    for tokens in last:
        if not tokens:  # no end token, and the stop merges with the answer
            tokens.append(encode([stops[0]])[0][-1])
    return list(zip(bodies, last, strict=True))


def pick_tokens(logprobs: Tensor, nodes: list[ChoiceTrie | None]) -> Tensor:
    """Returns the most probable token of each row of logprobs (B, vocabulary), among those that its node allows: (B,)."""
    tokens = logprobs.argmax(-1)
    rows = [row for row, node in enumerate(nodes) if node is not None]
    if rows:
        allowed = nn.utils.rnn.pad_sequence([nodes[row].allowed for row in rows], batch_first=True, padding_value=-1).to(logprobs.device)
        allowed = torch.where(allowed < 0, allowed[:, :1], allowed)  # (rows, most allowed)
        best = logprobs[rows].gather(1, allowed).argmax(1, keepdim=True)
        tokens[rows] = allowed.gather(1, best)[:, 0]
    return tokens


def read_choices(file: Path, stops: tuple[str, ...]) -> list[str]:
    """Reads one allowed answer a line, each once.

    Raises FileNotFoundError if there is no file; ValueError if it is empty, not UTF-8, or an answer holds a text that ends answers.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"params.yaml: cache.sentences.choices: {file} is missing: write one allowed answer a line, or set it to null"
        )
    try:
        choices = list(dict.fromkeys(line.strip() for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()))
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    if not choices:
        raise ValueError(f"params.yaml: cache.sentences.choices: {file} holds no answer: write one a line, or set it to null")
    for choice in choices:
        for stop in stops:
            if stop in choice:
                raise ValueError(f"{file}: the answer {choice!r} holds {stop!r}, one of cache.sentences.stop: remove it from either")
    return choices
