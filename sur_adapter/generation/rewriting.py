"""The arm `rewrite`: the language model turns each plain prompt into a keyword prompt when images are drawn.

This is what an adapter that the same language model taught is compared with: the rewriting needs the model in memory for every prompt.
"""

import logging
import time
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow as pa
from torch import nn

if TYPE_CHECKING:
    from sur_adapter.models.rewriter import Answer, Rewriter

logger = logging.getLogger(__name__)
DIGITS = 4  # of log-probabilities in the table
ANSWERS = pa.schema(
    [
        ("answer", pa.string()),  # the keyword prompt; null: the model gave none that can be used, and the plain prompt was drawn
        ("min_logprob", pa.float32()),  # of the least likely token of the answer
        ("reason", pa.string()),  # why there is no answer
    ]
)


def rewrite_prompts(prompts: list[str], rewriter: "Rewriter") -> tuple[pd.DataFrame, float]:
    """Rewrites plain prompts. Returns (table of ANSWERS with a row per prompt, seconds per prompt)."""
    started = time.perf_counter()
    answers = rewriter.rewrite(prompts)
    seconds = (time.perf_counter() - started) / len(prompts)
    table = pd.DataFrame([_row(answer) for answer in answers], columns=ANSWERS.names).astype(object)
    unparsed = int(table.answer.isna().sum())
    logger.info(
        "%d of %d prompts were rewritten, %.3f s each; the others are drawn as they are", len(table) - unparsed, len(table), seconds
    )
    return table.where(table.notna(), None), seconds


def _row(answer: "Answer") -> dict:
    """Returns the row of one answer; one that has a reason against it, or no text, is left out."""
    text = (answer.answer or "").strip()
    reason = answer.reason or (None if text else "empty")
    logprob = None if answer.min_logprob is None else round(float(answer.min_logprob), DIGITS)
    return {"answer": None if reason else text, "min_logprob": logprob, "reason": reason}


def weights_of(model: nn.Module) -> dict:
    """Counts a model's parameters and the bytes of its weights as loaded: {"parameters", "bytes"}."""
    weights = list(model.parameters())
    return {"parameters": sum(w.numel() for w in weights), "bytes": sum(w.numel() * w.element_size() for w in weights)}
