"""The LLM: prompts to hidden states of chosen layers, all in one pass."""

from collections.abc import Iterator
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BitsAndBytesConfig

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

POOLINGS = ("last", "mean", "tokens", "layernorm-mean")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class LanguageModel:
    """Any causal LM of transformers, cut off above the last layer asked for.

    layers: 1 is the output of the first block; "all", every one. The hidden states are the raw residual stream, before the final norm, as
    in the published vectors. pooling: the "last" token; the "mean" over tokens; all "tokens"; "layernorm-mean", each layer's states
    normalised, averaged over the layers, then over tokens (arXiv 2506.08210).
    tokens: of a batch, padding counted. precision: fp32, bf16, or auto, which is bf16 on a GPU. bits: 8 or 4, weights rounded by
    bitsandbytes. device_map: as in transformers, for a model that no one device holds.
    Raises ValueError for what cannot be, FileNotFoundError where there is no model.
    """

    def __init__(
        self,
        model: str,
        layers: list[int] | str,
        pooling: str = "last",
        device: str = "cpu",
        *,
        tokens: int = 4096,
        precision: str = "auto",
        bits: int | None = None,
        device_map: str | None = None,
    ):
        if pooling not in POOLINGS:
            raise ValueError(f"params.yaml: cache.llm.pooling is {pooling!r}: choose {', '.join(POOLINGS[:-1])} or {POOLINGS[-1]}")
        self.dtype = dtype(precision, device)
        rounding = quantisation(bits, self.dtype)
        with loading_errors("models.llm", model):
            config = AutoConfig.from_pretrained(model, **NO_REMOTE_CODE)
        self.layers, self.pooling, self.tokens = chosen(layers, depth(config), model), pooling, tokens
        cut(config, max(self.layers))
        with loading_errors("models.llm", model):
            self.tokenizer = AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
            where = device_map or (device if bits else None)
            self.model = AutoModel.from_pretrained(
                model, config=config, dtype=self.dtype, quantization_config=rounding, device_map=where, **SAFETENSORS_ONLY
            ).eval()
        if not (bits or device_map):
            self.model.to(device)
        self.limit = min(self.tokenizer.model_max_length, getattr(config.get_text_config(), "max_position_embeddings", None) or 2**20)
        self.blocks = _blocks(self.model, max(self.layers))

    @property
    def columns(self) -> list[str]:
        return ["layernorm_mean"] if self.pooling == "layernorm-mean" else [f"layer_{k}" for k in self.layers]

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> dict[str, Tensor | list[Tensor]]:
        """column -> [B, d_llm] fp32, or for "tokens" B times [T, d_llm]; in the order of the prompts, whoever else is in a batch."""
        ids = self.encode(prompts)
        result: dict[str, list] = {name: [None] * len(ids) for name in self.columns}
        for rows in batches([len(i) for i in ids], self.tokens):
            for name, values in self._states([ids[r] for r in rows]).items():
                for r, value in zip(rows, values, strict=True):
                    result[name][r] = value
        return result if self.pooling == "tokens" else {name: torch.stack(values) for name, values in result.items()}

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """The tokens of each prompt; of an empty one, a token that says so, as some tokenizers make none of it."""
        marks = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
        nothing = [next(mark for mark in marks if mark is not None)]
        ids = self.tokenizer(prompts, truncation=True, max_length=self.limit).input_ids if prompts else []
        return [i or nothing for i in ids]

    def _states(self, ids: list[list[int]]) -> dict[str, Tensor | list[Tensor]]:
        """One pass. Padded on the right, so that the tokens of a causal model see none of the padding and their positions count from 0."""
        lengths = torch.tensor([len(i) for i in ids])
        where = self.model.get_input_embeddings().weight.device
        padded = nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True).to(where)  # (B, T)
        mask = torch.arange(padded.shape[1], device=where) < lengths[:, None].to(where)
        caught: dict[str, Tensor] = {}
        hooks = [self.blocks[k - 1].register_forward_hook(self._keep(k, mask, caught)) for k in self.layers]
        try:
            self.model(input_ids=padded, attention_mask=mask.long(), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        if self.pooling == "layernorm-mean":
            return {name: _mean(state / len(self.layers), mask) for name, state in caught.items()}
        if self.pooling == "tokens":
            return {name: [row[:n] for row, n in zip(state, lengths.tolist(), strict=True)] for name, state in caught.items()}
        return caught

    def _keep(self, k: int, mask: Tensor, caught: dict[str, Tensor]):
        rows, last = torch.arange(len(mask), device=mask.device), mask.sum(1) - 1

        def keep(_module, _inputs, output) -> None:
            state = output[0] if isinstance(output, tuple) else output  # (B, T, d_llm)
            if self.pooling == "last":
                caught[f"layer_{k}"] = state[rows.to(state.device), last.to(state.device)].float()
            elif self.pooling == "mean":
                caught[f"layer_{k}"] = _mean(state.float(), mask)
            elif self.pooling == "tokens":
                caught[f"layer_{k}"] = state.float().cpu()
            else:
                normal = F.layer_norm(state.float(), state.shape[-1:])
                before = caught.get("layernorm_mean")
                caught["layernorm_mean"] = normal if before is None else before.to(normal.device) + normal

        return keep


def batches(lengths: list[int], tokens: int) -> Iterator[list[int]]:
    """Row numbers, the longest first, in batches whose rows × longest is at most `tokens`; one row where even that is too much."""
    some: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        if some and (len(some) + 1) * lengths[some[0]] > tokens:
            yield some
            some = []
        some.append(row)
    if some:
        yield some


def chosen(layers: list[int] | str, depth: int, model: str) -> list[int]:
    """The layers asked for, in order, each once; what the files lack would be made up, so it is asked before loading."""
    if layers == "all":
        return list(range(1, depth + 1))
    if not isinstance(layers, list) or not layers or min(layers) < 1 or max(layers) > depth:
        raise ValueError(f"params.yaml: cache.llm.layers is {layers}, but {model} has layers 1 to {depth}: name some of those, or `all`")
    return sorted(set(layers))


def depth(config) -> int:
    return config.get_text_config().num_hidden_layers


def cut(config, layers: int) -> None:
    """So that no layer above is loaded, or run."""
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def dtype(precision: str, device: str) -> torch.dtype:
    if precision == "auto":
        precision = "fp32" if torch.device(device).type == "cpu" else "bf16"
    if precision not in PRECISIONS:
        raise ValueError(f"params.yaml: cache.llm.precision is {precision!r}: choose auto, fp32 or bf16")
    return PRECISIONS[precision]


def quantisation(bits: int | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if bits not in (None, 8, 4):
        raise ValueError(f"params.yaml: cache.llm.bits is {bits!r}: choose 8, 4 or null")
    if bits and not find_spec("bitsandbytes"):
        raise ValueError(f"params.yaml: cache.llm.bits is {bits}, which needs the package bitsandbytes: install it, or choose null")
    return BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_compute_dtype=dtype) if bits else None


def _blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The decoder's layers, by whatever name a model calls them."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    found = next((m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)
    if found is None:
        raise ValueError(f"params.yaml: models.llm is a {type(model).__name__}, which has no list of {count} layers: name a causal LM")
    return found


def _mean(state: Tensor, mask: Tensor) -> Tensor:
    mask = mask.to(state.device)
    return (state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
