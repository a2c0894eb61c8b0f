"""The arm `rewrite`: the language model turns each plain prompt into a keyword prompt when images are drawn.

This is what an adapter that the same language model taught is compared with: the rewriting needs the model in memory for every prompt.
"""

import logging
import time
from math import isfinite
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
    """Returns the row of one answer; its text is left out if there is a reason against it."""
    logprob = round(answer.min_logprob, DIGITS) if isfinite(answer.min_logprob) else None
    return {"answer": None if answer.reason else answer.answer, "min_logprob": logprob, "reason": answer.reason}


def count_parameters(model: nn.Module) -> int:
    """Counts the parameters of a model: unlike the bytes of its weights, they are the same on every device."""
    return sum(weights.numel() for weights in model.parameters())
