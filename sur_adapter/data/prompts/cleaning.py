r"""Cleans keyword prompts: removes the syntax that only a web interface understands.

AUTOMATIC1111's syntax, much of it shared by others:

<lora:name:0.8>                     a network: removed
(word:1.2)  ((word))  [word]        attention weights: the words stay, the weights are removed
\(  \)                              an escaped bracket: stays as a bracket
[from:to:0.5]  [one|other]          prompt editing: the last text; alternation: the first text
BREAK, AND                          separators of chunks: a comma

The original prompt is stored beside the clean one. Nothing is truncated: excess tokens are counted by the score `too_long`.
"""

import re
from collections.abc import Mapping

MAX_LENGTH = 20_000  # characters; the cost grows with each level of nested brackets
NETWORK = re.compile(r"<[A-Za-z][^<>\n]*>")
TOKEN = re.compile(r"\\+[()\[\]{}]?|[()\[\]{}]|[^\\()\[\]{}]+")
CLOSES = {")": "(", "]": "[", "}": "{"}
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
SEPARATOR = re.compile(r"\bBREAK\b|(?<=\s)(?<![A-Z]\s)AND(?=\s)(?!\s[A-Z]{2})")  # AND between words in capitals is a word
MARKED = re.compile(r"<[A-Za-z]\w*:|\(\(|[([][^()\[\]]*:\s*\d*\.\d+\s*[)\]]|\bBREAK\b")  # certainly this syntax


def clean(prompt: str | None) -> str | None:
    """Removes weights and networks; a prompt without this syntax is returned unchanged. Cleaning is idempotent.

    Brackets inside a sentence, as in "a man (old and tired)", stay; around a whole part of a list they are weights and are removed. Prompts
    longer than MAX_LENGTH are returned unchanged.
    """
    while prompt is not None and len(prompt) <= MAX_LENGTH and (cleaned := _clean_once(prompt)) != prompt:
        prompt = cleaned  # shorter each time: a bracket that was escaped may now enclose a whole part
    return prompt


def effective_prompt(row: Mapping) -> str | None:
    """Returns the keyword prompt of a row that models read: the clean one if there is one, else the original."""
    cleaned = row.get("clean_prompt")
    return cleaned if isinstance(cleaned, str) else row["complex_prompt"]


def nonempty_text(value: object) -> str | None:
    """Strips a text of untrusted data; None if it is empty or not a text."""
    return value.strip() or None if isinstance(value, str) else None


def count_excess_tokens(prompts: list[str], tokenizer, length: int | None = None) -> list[int]:
    """Counts the tokens of each prompt that exceed `length`, by default the tokenizer's: 77 for CLIP, start and end token included."""
    counts = [len(ids) for ids in tokenizer(prompts, truncation=False, verbose=False).input_ids] if prompts else []
    return [max(0, count - (length or tokenizer.model_max_length)) for count in counts]


def _clean_once(prompt: str) -> str:
    text = _brackets(NETWORK.sub(" ", prompt), MARKED.search(prompt) is not None)
    if SEPARATOR.search(text):  # "a cat :1.2 AND a dog :0.8"
        text = ", ".join((_without_weight(part, " :") or part).strip() for part in SEPARATOR.split(text))
    return prompt if text == prompt else _tidy(text)


def _brackets(text: str, marked: bool) -> str:
    """Replaces each pair of brackets, innermost first, by what it stands for; unmatched brackets stay."""
    stack = [["", "", []]]  # [bracket, last character so far, pieces since]
    for token in TOKEN.findall(text):
        bracket, last, pieces = stack[-1]
        if token in ("(", "[", "{"):
            stack.append([token, last, []])
            continue
        if token in CLOSES and bracket == CLOSES[token]:
            stack.pop()
            token = _replacement(bracket, "".join(pieces), stack[-1][1], marked)
        elif token[0] == "\\" and token[-1] != "\\":
            token = token[-1]
        stack[-1][1] = token.rstrip()[-1:] or stack[-1][1]
        stack[-1][2].append(token)
    return "".join(bracket + "".join(pieces) for bracket, _, pieces in stack)


def _replacement(bracket: str, inside: str, before: str, marked: bool) -> str:
    """Returns what replaces a pair of brackets. before: the last character before it. marked: the prompt certainly uses this syntax."""
    unweighted = _without_weight(inside, ":")
    if bracket == "(" and unweighted is None:
        return inside if marked or before in ("", *",;|:([{") else f"({inside})"
    if bracket == "(":
        return unweighted
    if "|" in inside:
        return next((choice for choice in inside.split("|") if choice.strip()), "")
    if bracket == "[" and unweighted is not None:
        first, _, last = unweighted.rpartition(":")
        return last if last.strip() else first
    return inside


def _without_weight(text: str, mark: str) -> str | None:
    """Returns the text before `mark` and a number at the end; None if there is no such weight, or if it is a time or a ratio (10:30)."""
    content, separator, number = text.rpartition(mark)
    is_weight = separator and NUMBER.fullmatch(number.strip()) and not (content[-1:].isdigit() and "." not in number)
    return content.rstrip() if is_weight else None


def _tidy(text: str) -> str:
    """Collapses the spaces and commas that removed syntax leaves behind."""
    text = re.sub(r"[^\S\n]+", " ", text).replace(" ,", ",")
    return re.sub(r",(?:\s*,)+", ",", text).strip(" ,\n")
