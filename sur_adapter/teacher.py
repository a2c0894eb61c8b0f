"""The LLM: prompts to hidden states of chosen layers, all in one pass."""

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer

from sur_adapter.schema import named


class Teacher:
    """Any causal LM of transformers, cut off above the last layer asked for.

    layers: 1 is the output of the first block. pooling: "last" token or "mean" over tokens. The hidden states are the
    raw residual stream, before the final norm, as in the published vectors.
    """

    def __init__(self, model: str, layers: list[int], pooling: str = "last", device: str = "cpu"):
        if pooling not in ("last", "mean"):
            raise ValueError(f"params.yaml: cache.llm.pooling is {pooling!r}: choose last or mean")
        with named("models.llm", model):
            depth = AutoConfig.from_pretrained(model).num_hidden_layers
        if not layers or min(layers) < 1 or max(layers) > depth:  # asked before loading: what the files lack would be made up
            raise ValueError(f"params.yaml: cache.llm.layers is {layers}, but {model} has layers 1 to {depth}: name some of those")
        with named("models.llm", model):
            self.tokenizer = AutoTokenizer.from_pretrained(model)
            self.model = AutoModel.from_pretrained(model, num_hidden_layers=max(layers)).to(device).eval()
        self.layers, self.pooling, self.device = layers, pooling, device
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "right"

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> dict[int, Tensor]:
        """layer -> [B, d_llm]."""
        batch = self.tokenizer(prompts, padding=True, return_tensors="pt").to(self.device)
        caught: dict[int, Tensor] = {}
        hooks = [self._catch(k, caught) for k in self.layers]
        self.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        for hook in hooks:
            hook.remove()
        return {k: self._pool(state, batch.attention_mask) for k, state in caught.items()}

    def _catch(self, k: int, caught: dict):
        def keep(_module, _inputs, output):
            caught[k] = output[0] if isinstance(output, tuple) else output  # (B, T, d_llm)

        return self.model.layers[k - 1].register_forward_hook(keep)

    def _pool(self, state: Tensor, mask: Tensor) -> Tensor:
        if self.pooling == "last":
            return state[torch.arange(len(state)), mask.sum(1) - 1]
        return (state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
