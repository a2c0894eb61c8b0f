"""Estimates the stages `sentences` and `cache@sentences`, and the answers of the arm `rewrite`.

With a cache of keys and values a language model reads each token once, so that an answer takes the operations of reading prompt and answer
together, and of one prediction per token of the answer.
"""

from typing import Any

from sur_adapter.data.sentences import file
from sur_adapter.io.schema import ROWS_PER_SHARD
from sur_adapter.models.rewrite_prompt import SLOT, RewriterConfig
from sur_adapter.tools.planner.flops import measure_cost, meta_tensor, num_weights, token_ids
from sur_adapter.tools.planner.model_specs import UnknownModelError, language_model
from sur_adapter.tools.planner.settings import PlanSettings
from sur_adapter.tools.planner.stage_costs import (
    ROW_BYTES,
    SHARD_OVERHEAD,
    StageCost,
    encoding_cost,
    generate_images,
    llm_row_bytes,
    num_images,
    num_shards,
    text_row_bytes,
)

TOKENS_PER_WORD = 4 / 3  # of the instruction: assumed
LONGEST_AS_ASSUMED = "answers are counted as long as max_new_tokens allows"


def num_sentences(sources: dict[str, Any], pairs: int | None) -> tuple[int | None, int]:
    """Returns (sentences of all sources, those with a ready answer). pairs: kept ones, for captions. None: not known."""
    total, ready = 0, 0
    for name, config in sources.items():
        if name == "captions":
            if pairs is None:
                return None, 0
            total += min(pairs, config.limit or pairs)
        elif name == "file":
            try:
                rows = list(file.rows(config, None))
            except (FileNotFoundError, ValueError):
                return None, 0
            total, ready = total + len(rows), ready + sum("answer" in row for row in rows)
        elif (count := getattr(config, "count", None)) is None:
            return None, 0
        else:
            total += count
    return total, ready


def kept_share(sources: dict[str, Any], report: dict | None) -> float:
    """Returns the share of sentences that an earlier run of the same sources kept; else 1."""
    if not report or not report["in"] or set(report["by_source"]) != set(sources):
        return 1.0
    return report["kept"] / report["in"]


def sentences(candidates: int) -> StageCost:
    return StageCost(candidates, candidates * ROW_BYTES["sentences"])


def answer_cost(model_name: str, config: RewriterConfig, sentence_tokens: float) -> tuple[float, float]:
    """Returns (operations of one answer, bytes of weights, cached keys and values and logits of a batch)."""
    model = language_model(model_name, "all")
    header, _, request = config.instruction.rpartition("\n\n")
    shown = [header, *(f"{example.sentence} {example.answer} {request}" for example in config.examples)]
    prefix = round(TOKENS_PER_WORD * sum(len(text.split()) for text in shown))  # read once for all sentences
    request_tokens = TOKENS_PER_WORD * len(request.replace(SLOT, "").split())
    read = round(sentence_tokens + request_tokens) + config.max_new_tokens

    def read_after(length: int, known: int) -> float:
        mask = meta_tensor(1, 1, length + known, length + known)
        return measure_cost(lambda: model(input_ids=token_ids(1, length + known), attention_mask=mask, use_cache=False)).flops

    text = model.config.get_text_config()
    flops = read_after(read, prefix) - (read_after(prefix, 0) if prefix else 0)
    flops += (config.max_new_tokens + 1) * 2 * text.hidden_size * text.vocab_size  # the predictions
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    number = 4 if config.precision == "fp32" else 2
    kv = 2 * text.num_hidden_layers * width * (prefix + read) * config.batch_size * number
    logits = 2 * 4 * config.batch_size * text.vocab_size  # and their log-probabilities, fp32
    weights = number * (num_weights(model) + text.hidden_size * text.vocab_size)
    return flops, weights + kv + logits


def cache_sentences(kept: int, ready: int, settings: PlanSettings, tokens_per_prompt: float) -> StageCost:
    """Estimates the answers and features. kept: sentences; ready: those that came with an answer, which the model reads only for states."""
    models, config = settings.models, settings.cache_sentences
    encoding, encoders, memory = encoding_cost(models, config.batch_size)
    row_bytes, note, operations = text_row_bytes(models) + 8, "", {"encoding": (2 * encoding * kept, "fp32")}
    has_states = settings.loss.uses_answer_states
    asked = kept if has_states else kept - ready
    if asked:
        flops, of_llm = answer_cost(models.llm, config, tokens_per_prompt)
        states = has_states * llm_row_bytes(models, settings.cache_llm, config.max_new_tokens)
        row_bytes, memory = row_bytes + states, memory + of_llm
        operations["answers"] = (flops * asked, "fp32" if config.precision == "fp32" else "bf16")
        note = LONGEST_AS_ASSUMED
    disk = kept * (row_bytes + ROW_BYTES["answers"]) + num_shards(kept) * SHARD_OVERHEAD
    return StageCost(kept, disk, encoders + memory + 2 * ROWS_PER_SHARD * row_bytes, operations, note=note)


def generate(settings: PlanSettings, prompts: dict[str, int], tokens_per_prompt: float) -> StageCost:
    """Estimates the images of all arms, and the answers of the arm `rewrite`. prompts: set -> its number of prompts."""
    models, config = settings.models, settings.cache_sentences
    cost = generate_images(models, settings.generate, num_images(settings.generate, prompts))
    try:
        flops, memory = answer_cost(models.llm, config, tokens_per_prompt) if models.llm else (0.0, 0.0)
    except UnknownModelError as error:
        cost.note = f"the answers of the arm rewrite are not counted: {error}"
        return cost
    if flops:
        cost.operations["answers"] = (flops * sum(prompts.values()), "fp32" if config.precision == "fp32" else "bf16")
    cost.memory_bytes = max(cost.memory_bytes, memory)
    return cost
