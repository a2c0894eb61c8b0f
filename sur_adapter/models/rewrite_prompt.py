"""The prompt by which a causal language model rewrites a sentence into a keyword prompt, plain or as a chat."""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

SLOT, ANSWER_SLOT = "{sentence}", "{answer}"


@dataclass(frozen=True)
class Example:
    """A sentence with its answer, shown to the model before the sentence it is asked for."""

    sentence: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class RewriterConfig:
    """How sentences are rewritten; part of section `cache.sentences` of params.yaml.

    instruction: what the model reads, with `{sentence}`; what is before its last blank line is said once, the rest for each example again.
    examples: shown first. chat: through the tokenizer's chat template; auto: if it has one. stop: texts that end an answer, as the end
    token does; the first follows each example. choices: file with one allowed answer a line, or null. max_new_tokens: of an answer that
    is not among `choices`. batch_size: sentences. precision: auto is bf16 on a GPU, else fp32; for models of more than some 100 million
    weights, bf16 is faster on CPUs with instructions for it. keyword_prompt: what the base model gets of an answer, such as quality tags
    around `{answer}`: keyword prompts of galleries have them, and the base model draws better with them.
    """

    instruction: str = "{sentence} means "
    examples: tuple[Example, ...] = ()
    chat: Literal["auto"] | bool = "auto"
    stop: tuple[str, ...] = ("\n",)
    choices: str | None = None
    max_new_tokens: int = 24
    batch_size: int = 256
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    keyword_prompt: str = ANSWER_SLOT

    def __post_init__(self):
        if ANSWER_SLOT not in self.keyword_prompt:
            raise ValueError(f"keyword_prompt is {self.keyword_prompt!r}: write {ANSWER_SLOT} where the answer goes")
        if SLOT not in self.instruction.rpartition("\n\n")[2]:
            raise ValueError(f"instruction is {self.instruction!r}: write {SLOT} after its last blank line, where the sentence goes")
        if not self.stop or not all(self.stop):
            raise ValueError(f"stop is {list(self.stop)}: give at least one text that ends an answer, such as a line end")
        for name in ("max_new_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")

    def make_keyword_prompt(self, answer: str) -> str:
        """Returns the keyword prompt that is made of an answer."""
        return self.keyword_prompt.replace(ANSWER_SLOT, answer)


class RewritePrompt:
    """The text of the prompts of one model. Raises ValueError if `chat` is true and the tokenizer has no chat template.

    before, after: what is around the sentence. gap: the space between prompt and answer; it belongs to the answer's first word.
    """

    def __init__(self, config: RewriterConfig, tokenizer: PreTrainedTokenizerBase):
        has_template = bool(getattr(tokenizer, "chat_template", None))
        if config.chat is True and not has_template:
            raise ValueError(
                "params.yaml: cache.sentences.chat is true, but the tokenizer of models.llm has no chat template: set it to auto"
            )
        self.chat = has_template if config.chat == "auto" else config.chat
        text = _chat_text(config, tokenizer) if self.chat else _plain_text(config)
        stripped = text.rstrip(" ")
        self.gap = " " if not self.chat and not stripped[-1].isspace() else text[len(stripped) :]
        self.before, _, self.after = stripped.rpartition(SLOT)

    def __call__(self, sentence: str) -> str:
        return f"{self.before}{sentence}{self.after}"


def _plain_text(config: RewriterConfig) -> str:
    """The header, each example with its answer and the first stop, and the request, as lines."""
    header, blank, request = config.instruction.rpartition("\n\n")
    end = config.stop[0] if config.stop[0].endswith("\n") else f"{config.stop[0]}\n"
    asked = request.rstrip(" ")
    gap = "" if asked[-1].isspace() else " "
    shown = [f"{asked.replace(SLOT, example.sentence)}{gap}{example.answer}{end}" for example in config.examples]
    return f"{header}{blank}{''.join(shown)}{request}"


def _chat_text(config: RewriterConfig, tokenizer: PreTrainedTokenizerBase) -> str:
    """The examples as turns of a chat, with the header in the first one."""
    header, blank, request = config.instruction.rpartition("\n\n")
    messages = []
    for example in config.examples:
        messages.append({"role": "user", "content": request.replace(SLOT, example.sentence).strip(" ")})
        messages.append({"role": "assistant", "content": example.answer})
    messages.append({"role": "user", "content": request.strip(" ")})
    messages[0]["content"] = f"{header}{blank}{messages[0]['content']}"
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    return tokenizer.apply_chat_template(messages, **options)
