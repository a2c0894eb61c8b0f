"""The language model: turns prompts into the hidden states of chosen layers, in one forward pass.

With pooling `prompt_eol` the model reads each prompt inside `EOL_TEMPLATE`, so that the state of the last token, from which it would say
the one word, holds the meaning of the whole prompt (PromptEOL, arXiv 2307.16645).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import compute_dtype

EOL_TEMPLATE = ('This sentence : "', '" means in one word:')  # before and after the prompt


@dataclass(frozen=True, kw_only=True)
class LLMConfig:
    """How hidden states are computed; part of section `cache.llm` of params.yaml.

    layers: 1 is the output of the first block; all: every one. pooling: `last`, the hidden state of the last token; `mean` over tokens;
    `tokens`, all of them; `layernorm-mean`, each layer's states normalised, averaged over layers, then over tokens (arXiv 2506.08210);
    `prompt_eol`, the last token of a request for one word that stands for the prompt (arXiv 2307.16645).
    max_tokens_per_batch: padding counted. precision: auto is bf16 on a GPU, else fp32. bits: weights quantised by bitsandbytes.
    device_map: as in transformers, for a model that does not fit on one device.
    """

    layers: tuple[int, ...] | Literal["all"]
    pooling: Literal["last", "mean", "tokens", "layernorm-mean", "prompt_eol"] = "last"
    max_tokens_per_batch: int = 4096
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    bits: Literal[8, 4] | None = None
    device_map: str | None = None

    def __post_init__(self):
        if self.max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch is {self.max_tokens_per_batch}: give at least 1")


class LanguageModel:
    """A causal language model of transformers, truncated above the highest chosen layer.

    Hidden states are the raw residual stream, before the final norm, as in the published vectors. Raises ValueError for layers that the
    model does not have and for a package that is missing, FileNotFoundError if there is no such model.
    """

    def __init__(self, model: str, config: LLMConfig, device: str = "cpu"):
        dtype = compute_dtype(device, resolve_precision(config.precision, device))
        model_config = load_config(model)
        layers = select_layers(config.layers, num_layers(model_config), model)
        truncate_layers(model_config, max(layers))
        tokenizer, module = load_llm(AutoModel, model, model_config, config, dtype, device)
        self._use(tokenizer, module, dtype, config, layers)

    @classmethod
    def of_loaded(cls, tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel, config: LLMConfig, model: str) -> "LanguageModel":
        """Uses a model without head that is loaded already, all of its layers. model: its name, for errors."""
        self = cls.__new__(cls)
        self._use(tokenizer, module, module.dtype, config, select_layers(config.layers, num_layers(module.config), model))
        return self

    def _use(
        self, tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel, dtype: torch.dtype, config: LLMConfig, layers: list[int]
    ) -> None:
        self.tokenizer, self.model, self.dtype, self.layers = tokenizer, module, dtype, layers
        self.pooling, self.max_tokens_per_batch = config.pooling, config.max_tokens_per_batch
        self.max_length = max_length(tokenizer, module)
        self.blocks = decoder_blocks(module, num_layers(module.config))

    @property
    def columns(self) -> list[str]:
        """The names of the outputs: layer_<k>, or layernorm_mean."""
        return ["layernorm_mean"] if self.pooling == "layernorm-mean" else [f"layer_{k}" for k in self.layers]

    @torch.no_grad()
    def __call__(self, prompts: list[str]) -> dict[str, Tensor | list[Tensor]]:
        """Embeds prompts: column -> (B, d_llm) fp32, or with pooling `tokens` B tensors (T, d_llm); in the order of the prompts."""
        ids = self.encode(prompts)
        columns: dict[str, list] = {name: [None] * len(ids) for name in self.columns}
        for rows in length_batches([len(i) for i in ids], self.max_tokens_per_batch):
            for name, states in self._forward([ids[row] for row in rows]).items():
                for row, state in zip(rows, states, strict=True):
                    columns[name][row] = state
        return columns if self.pooling == "tokens" else {name: torch.stack(states) for name, states in columns.items()}

    def encode(self, prompts: list[str]) -> list[list[int]]:
        """Tokenizes prompts. An empty one becomes a special token, because some tokenizers return no token for it.

        With `prompt_eol` the template is around each prompt; one that is too long loses tokens before the template's end.
        """
        if self.pooling == "prompt_eol":
            return self._encode_eol(prompts)
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, 0)
        empty = [next(token for token in special if token is not None)]
        ids = self.tokenizer(prompts, truncation=True, max_length=self.max_length).input_ids if prompts else []
        return [i or empty for i in ids]

    def _encode_eol(self, prompts: list[str]) -> list[list[int]]:
        ids = (
            self.tokenizer([f"{EOL_TEMPLATE[0]}{prompt}{EOL_TEMPLATE[1]}" for prompt in prompts], verbose=False).input_ids
            if prompts
            else []
        )
        tail = len(self.tokenizer(EOL_TEMPLATE[1], add_special_tokens=False).input_ids)
        return [i if len(i) <= self.max_length else i[: self.max_length - tail] + i[-tail:] for i in ids]

    def _forward(self, ids: list[list[int]]) -> dict[str, Tensor | list[Tensor]]:
        """Runs one forward pass. Padding is on the right: in a causal model no token attends to it, and positions count from 0."""
        lengths = torch.tensor([len(i) for i in ids])
        device = self.model.get_input_embeddings().weight.device
        padded = nn.utils.rnn.pad_sequence([torch.tensor(i) for i in ids], batch_first=True).to(device)  # (B, T)
        mask = torch.arange(padded.shape[1], device=device) < lengths[:, None].to(device)  # (B, T)
        states: dict[str, Tensor] = {}
        hooks = [self.blocks[k - 1].register_forward_hook(self._pooling_hook(k, mask, states)) for k in self.layers]
        try:
            self.model(input_ids=padded, attention_mask=mask.long(), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
        if self.pooling == "layernorm-mean":
            return {name: _masked_mean(state / len(self.layers), mask) for name, state in states.items()}
        if self.pooling == "tokens":
            return {name: [row[:n] for row, n in zip(state, lengths.tolist(), strict=True)] for name, state in states.items()}
        return states

    def _pooling_hook(self, k: int, mask: Tensor, states: dict[str, Tensor]) -> Callable:
        """Returns a forward hook of block k that pools its output into `states`, so that no layer's full output is held."""
        rows, last = torch.arange(len(mask), device=mask.device), mask.sum(1) - 1

        def hook(_module, _inputs, output) -> None:
            state = output[0] if isinstance(output, tuple) else output  # (B, T, d_llm)
            if self.pooling in ("last", "prompt_eol"):
                states[f"layer_{k}"] = state[rows.to(state.device), last.to(state.device)].float()
            elif self.pooling == "mean":
                states[f"layer_{k}"] = _masked_mean(state.float(), mask)
            elif self.pooling == "tokens":
                states[f"layer_{k}"] = state.float().cpu()
            else:
                normalised = F.layer_norm(state.float(), state.shape[-1:])
                total = states.get("layernorm_mean")
                states["layernorm_mean"] = normalised if total is None else total.to(normalised.device) + normalised

        return hook


def load_config(model: str) -> PretrainedConfig:
    """Reads the config of a language model. Raises FileNotFoundError if there is none."""
    with loading_errors("models.llm", model):
        return AutoConfig.from_pretrained(model, **NO_REMOTE_CODE)


def load_llm(
    auto_class: type, model: str, model_config: PretrainedConfig, config: LLMConfig, dtype: torch.dtype, device: str
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Loads the tokenizer and the model, by an Auto class of transformers. Raises FileNotFoundError if there is no such model."""
    device_map = config.device_map or (device if config.bits else None)
    quantization = quantization_config(config.bits, dtype)
    options = {"dtype": dtype, "quantization_config": quantization, "device_map": device_map, **SAFETENSORS_ONLY}
    with loading_errors("models.llm", model):
        tokenizer = AutoTokenizer.from_pretrained(model, **NO_REMOTE_CODE)
        module = auto_class.from_pretrained(model, config=model_config, **options).eval()
    return tokenizer, module if device_map else module.to(device)


def resolve_precision(precision: str, device: str) -> str:
    """Returns `precision`; for `auto`, bf16 on a GPU and fp32 on a CPU."""
    if precision != "auto":
        return precision
    return "fp32" if torch.device(device).type == "cpu" else "bf16"


def max_length(tokenizer: PreTrainedTokenizerBase, module: PreTrainedModel) -> int:
    """Returns the number of tokens that the model can read."""
    positions = getattr(module.config.get_text_config(), "max_position_embeddings", None) or 2**20
    return min(tokenizer.model_max_length, positions)


def length_batches(lengths: list[int], max_tokens: int) -> Iterator[list[int]]:
    """Yields row numbers, longest first, in batches of rows × longest ≤ max_tokens; a longer row is a batch of its own."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def select_layers(layers: tuple[int, ...] | list[int] | str, depth: int, model: str) -> list[int]:
    """Returns the chosen layers, sorted, each once.

    Raises ValueError for layers above `depth`, which transformers would give random weights.
    """
    if layers == "all":
        return list(range(1, depth + 1))
    if isinstance(layers, str) or not layers or min(layers) < 1 or max(layers) > depth:
        listed = layers if isinstance(layers, str) else list(layers)
        raise ValueError(f"params.yaml: cache.llm.layers is {listed}, but {model} has layers 1 to {depth}: name some of those, or `all`")
    return sorted(set(layers))


def num_layers(config: PretrainedConfig) -> int:
    """Returns the number of layers of the text model, also of a multimodal one."""
    return config.get_text_config().num_hidden_layers


def truncate_layers(config: PretrainedConfig, layers: int) -> None:
    """Changes the config so that only the first `layers` layers are loaded and run."""
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def quantization_config(bits: int | None, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """Returns the settings for weights of 8 or 4 bits, or None if `bits` is None. Raises ValueError if bitsandbytes is not installed."""
    if bits and not find_spec("bitsandbytes"):
        raise ValueError(f"params.yaml: cache.llm.bits is {bits}, which needs the package bitsandbytes: install it, or choose null")
    return BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, bnb_4bit_compute_dtype=dtype) if bits else None


def decoder_blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """Finds the decoder's list of blocks, whatever its name in the architecture."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    blocks = next((m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == count), None)
    if blocks is None:
        raise ValueError(f"params.yaml: models.llm is a {type(model).__name__}, which has no list of {count} layers: name a causal LM")
    return blocks


def _masked_mean(state: Tensor, mask: Tensor) -> Tensor:
    """Averages over unmasked tokens: (B, T, d), (B, T) -> (B, d)."""
    mask = mask.to(state.device)
    return (state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
