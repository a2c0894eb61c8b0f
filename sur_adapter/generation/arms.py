"""The arms of the comparison: which words a pipeline is given, and whether the adapter is there. All draw on the same noise."""

from dataclasses import dataclass

STOCK = "masterpiece, best quality, highly detailed, sharp focus, 8k"  # what people append by hand today


@dataclass(frozen=True)
class Arm:
    """words: "plain", "keyword", or "stock", plain ones with stock keywords; meant: as the report says it."""

    words: str
    adapted: bool
    meant: str

    def text(self, prompt: dict) -> str:
        """What the pipeline is given for a prompt (prompts.py)."""
        if self.words == "keyword":
            return prompt.get("complex_prompt") or prompt["prompt"]
        return f"{prompt['prompt']}, {STOCK}" if self.words == "stock" else prompt["prompt"]


ARMS = {
    "baseline": Arm("plain", False, "plain prompt, no adapter"),
    "adapter": Arm("plain", True, "plain prompt, with the adapter"),
    "complex": Arm("keyword", False, "keyword prompt, no adapter: the ceiling"),
    "complex_adapter": Arm("keyword", True, "keyword prompt, with the adapter: it should do no harm"),
    "expansion": Arm("stock", False, "plain prompt plus stock keywords, no adapter: what people do today"),
}
