"""What the LLM teaches: targets of L_llm that no training can make constant.

    kl         KL(P z(v) ‖ mean q)      z(v) = (v − mean) / std, statistics of the training split;  P orthogonal, random, fixed
    decoded    D(G(v), c'(s))           G is fitted to lower D(E(a), G(v)) on sentences s with answers a, then frozen

D is losses.prompt_attention, v the LLM's hidden states. The paper projects v by a trained map, which can move both sides of the KL to a
constant: then it is zero and teaches nothing.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sur_adapter.models.torch_utils import autocast, single_thread
from sur_adapter.training.batch import TrainingBatch
from sur_adapter.training.config import LossConfig
from sur_adapter.training.prompt_attention import PromptAttention
from sur_adapter.training.randomness import DECODER, step_generator

MAX_ROWS, CHUNK = 8192, 512  # rows whose vectors give mean and std; rows read at once
TOKENS, DEPTH, HEADS, LR = 16, 2, 4, 1e-3  # of the decoder


class Rows(Protocol):
    """A FeatureDataset, or a TrainingBatch of all rows."""

    def __len__(self) -> int: ...

    def rows(self, index: Tensor, device: str) -> TrainingBatch: ...


def mean_over_tokens(teacher: Tensor) -> Tensor:
    """Returns one vector per prompt, (B, d_llm): for features per token (B, T, d_llm), the mean over tokens that are not zero."""
    if teacher.ndim == 2:
        return teacher
    present = teacher.ne(0).any(-1, keepdim=True)  # (B, T, 1)
    return (teacher * present).sum(1) / present.sum(1).clamp_min(1)


@torch.no_grad()
@single_thread()
def standardise(projection: nn.Linear, dataset: Rows, seed: int) -> None:
    """Sets a projection to P z(v) and freezes it: weight = P / std, bias = −P · mean / std.

    Mean and std of each feature are over at most MAX_ROWS prompts, evenly spaced; P is drawn from the seed.
    """
    index = torch.linspace(0, len(dataset) - 1, min(len(dataset), MAX_ROWS)).long()
    vectors = torch.cat([mean_over_tokens(dataset.rows(part, "cpu").teacher) for part in index.split(CHUNK)]).double()  # (n, d_llm)
    mean, std = vectors.mean(0), vectors.std(0, correction=0)
    std = std.maximum(1e-3 * mean.abs()).clamp_min(1e-6)  # what varies less than the rounding of fp16 says nothing
    orthogonal = torch.empty_like(projection.weight, device="cpu")
    nn.init.orthogonal_(orthogonal, generator=torch.Generator().manual_seed(seed))
    projection.weight.copy_(orthogonal / std)
    projection.bias.copy_(-(orthogonal.double() @ (mean / std)))
    projection.requires_grad_(False)


class AnswerDecoder(nn.Module):
    """G: turns the hidden states of an answer, (B, T, d_llm) or (B, d_llm), into text features (B, TOKENS, d)."""

    def __init__(self, teacher_width: int, width: int):
        super().__init__()
        layer = nn.TransformerDecoderLayer(width, HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.project = nn.Sequential(nn.LayerNorm(teacher_width), nn.Linear(teacher_width, width))
        self.tokens = nn.Parameter(torch.randn(TOKENS, width))
        self.layers = nn.TransformerDecoder(layer, DEPTH, norm=nn.LayerNorm(width))
        self.out = nn.Linear(width, width)

    def forward(self, teacher: Tensor) -> Tensor:
        teacher = teacher if teacher.ndim == 3 else teacher[:, None]  # (B, T, d_llm)
        absent = ~teacher.ne(0).any(-1)  # (B, T)
        absent[:, 0] = False
        tokens = self.tokens.expand(len(teacher), -1, -1)
        return self.out(self.layers(tokens, self.project(teacher), memory_key_padding_mask=absent))


@single_thread()
def fit_decoder(
    text: Rows, attention: PromptAttention, config: LossConfig, *, seed: int, device: str, precision: str
) -> tuple[AnswerDecoder, float]:
    """Fits G on the text rows for `config.decoder_steps` steps and freezes it. Returns it with its mean loss over the last tenth.

    Every random number is drawn from (seed, step), so a resumed training fits the same decoder.
    """
    row = text.rows(torch.tensor([0]), "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        decoder = AnswerDecoder(row.teacher.shape[-1], row.complex.shape[-1]).to(device)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=LR, weight_decay=0.01)
    steps, values = config.decoder_steps, []
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps + 1)
    for step in tqdm(range(1, steps + 1), "decoder", disable=None):
        generator = step_generator(seed, step, DECODER)
        batch = text.rows(torch.randint(len(text), (config.sentences,), generator=generator), device)
        with autocast(device, precision):
            s = attention.sample(config.num_queries, generator)
            with torch.no_grad():
                target = attention.attend(s, batch.complex)
            loss = attention.losses([(target, attention.attend(s, decoder(batch.teacher)))], [slice(None)])[0]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        values.append(loss.detach())
    return decoder.eval().requires_grad_(False), torch.stack(values[-max(1, steps // 10) :]).mean().item()
