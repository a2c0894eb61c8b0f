"""Arms of the comparison: which prompt the pipeline gets, and whether the adapter is attached. All arms start from the same noise."""

from dataclasses import dataclass
from typing import Literal

STOCK_KEYWORDS = "masterpiece, best quality, highly detailed, sharp focus, 8k"  # what users append by hand today


@dataclass(frozen=True)
class Arm:
    """prompt: which prompt the pipeline gets; `stock` is the plain one followed by STOCK_KEYWORDS, `rewritten` what the language model
    makes of the plain one (rewriting.py). label: its name in the report. main_only: it draws the main set of prompts, and no other set."""

    prompt: Literal["plain", "keyword", "stock", "rewritten"]
    with_adapter: bool
    label: str
    main_only: bool = False

    def text(self, row: dict) -> str:
        """Returns the text that the pipeline gets for a row of a prompt list (prompts.py); for `rewritten`, with the key `rewritten`."""
        if self.prompt == "keyword":
            return row.get("complex_prompt") or row["prompt"]
        if self.prompt == "rewritten":
            return row["rewritten"] or row["prompt"]
        return f"{row['prompt']}, {STOCK_KEYWORDS}" if self.prompt == "stock" else row["prompt"]


ARMS = {
    "baseline": Arm("plain", False, "plain prompt, no adapter"),
    "adapter": Arm("plain", True, "plain prompt, with the adapter"),
    "complex": Arm("keyword", False, "keyword prompt, no adapter (upper bound)"),
    "complex_adapter": Arm("keyword", True, "keyword prompt, with the adapter (should do no harm)", main_only=True),
    "expansion": Arm("stock", False, "plain prompt plus stock keywords, no adapter (common practice)", main_only=True),
    "rewrite": Arm("rewritten", False, "plain prompt rewritten by the language model, no adapter"),
}
