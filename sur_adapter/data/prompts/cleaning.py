r"""A keyword prompt as models read it: without the marks that only a web interface understands.

AUTOMATIC1111's grammar, and what others share of it:

<lora:name:0.8>                     a network: no words, so it goes
(word:1.2)  ((word))  [word]        attention: the words stay, their weight goes
\(  \)                              a bracket that is meant
[from:to:0.5]  [one|other]          prompt editing, alternation: what it ends with; what it begins with
BREAK, AND                          where chunks of a prompt meet: a comma

The prompt as found stands beside the cleaned one, and nothing is cut: what is too long is counted (`too_long`).
"""

import re
from collections.abc import Mapping

LONGEST = 20_000  # characters: brackets in brackets cost as much again for each level
NETWORK = re.compile(r"<[A-Za-z][^<>\n]*>")
TOKEN = re.compile(r"\\+[()\[\]{}]?|[()\[\]{}]|[^\\()\[\]{}]+")
CLOSES = {")": "(", "]": "[", "}": "{"}
NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)")
JOINT = re.compile(r"\bBREAK\b|(?<=\s)(?<![A-Z]\s)AND(?=\s)(?!\s[A-Z]{2})")  # AND among words in capitals is a word
MARKED = re.compile(r"<[A-Za-z]\w*:|\(\(|[([][^()\[\]]*:\s*\d*\.\d+\s*[)\]]|\bBREAK\b")  # whoever wrote this knows what brackets do


def clean(prompt: str | None) -> str | None:
    """The prompt without the grammar of weights and networks; as it is where there is none of it. Cleaning twice is cleaning once.

    Brackets inside a sentence, as in "a man (old and tired)", stay; round a whole part of a list they weigh it, and go.
    What is longer than anyone writes stays as it is.
    """
    while prompt is not None and len(prompt) <= LONGEST and (once := _once(prompt)) != prompt:
        prompt = once  # shorter each time: a bracket that was escaped may now stand round a whole part
    return prompt


def words(row: Mapping) -> str | None:
    """The keyword prompt of a row as models should read it: its clean form where there is one, else as found."""
    cleaned = row.get("clean_prompt")
    return cleaned if isinstance(cleaned, str) else row["complex_prompt"]


def too_long(prompts: list[str], tokenizer, length: int | None = None) -> list[int]:
    """How many tokens of each prompt lie beyond a length, else the tokenizer's (77 for CLIP, both ends counted); 0 where all fit."""
    counts = [len(ids) for ids in tokenizer(prompts, truncation=False, verbose=False).input_ids] if prompts else []
    return [max(0, count - (length or tokenizer.model_max_length)) for count in counts]


def _once(prompt: str) -> str:
    text = _brackets(NETWORK.sub(" ", prompt), MARKED.search(prompt) is not None)
    if JOINT.search(text):  # "a cat :1.2 AND a dog :0.8"
        text = ", ".join((_weighted(part, " :") or part).strip() for part in JOINT.split(text))
    return prompt if text == prompt else _tidy(text)


def _brackets(text: str, marked: bool) -> str:
    """Each pair of brackets, the innermost first, by what it means; brackets that do not match stay."""
    stack = [["", "", []]]  # [the bracket, the last character so far, the pieces since]
    for token in TOKEN.findall(text):
        bracket, last, pieces = stack[-1]
        if token in ("(", "[", "{"):
            stack.append([token, last, []])
            continue
        if token in CLOSES and bracket == CLOSES[token]:
            stack.pop()
            token = _meaning(bracket, "".join(pieces), stack[-1][1], marked)
        elif token[0] == "\\" and token[-1] != "\\":
            token = token[-1]
        stack[-1][1] = token.rstrip()[-1:] or stack[-1][1]
        stack[-1][2].append(token)
    return "".join(bracket + "".join(pieces) for bracket, _, pieces in stack)


def _meaning(bracket: str, inside: str, before: str, marked: bool) -> str:
    """What a pair of brackets leaves. before: the last character before it; marked: the prompt is written in this grammar for certain."""
    unweighted = _weighted(inside, ":")
    if bracket == "(" and unweighted is None:
        return inside if marked or before in ("", *",;|:([{") else f"({inside})"
    if bracket == "(":
        return unweighted
    if "|" in inside:
        return next((one for one in inside.split("|") if one.strip()), "")
    if bracket == "[" and unweighted is not None:
        first, _, last = unweighted.rpartition(":")
        return last if last.strip() else first
    return inside


def _weighted(text: str, mark: str) -> str | None:
    """What stands before the mark and the number at the end; None where there is no number, or a time, a ratio, a verse (10:30)."""
    said, found, number = text.rpartition(mark)
    is_weight = found and NUMBER.fullmatch(number.strip()) and not (said[-1:].isdigit() and "." not in number)
    return said.rstrip() if is_weight else None


def _tidy(text: str) -> str:
    """Single blanks, single commas, none at the ends: what was taken out leaves no hole."""
    text = re.sub(r"[^\S\n]+", " ", text).replace(" ,", ",")
    return re.sub(r",(?:\s*,)+", ",", text).strip(" ,\n")
