"""The loss terms (arXiv 2305.05189):

    L = w_diffusion · ‖ε − UNet(z_t, t, c')‖²  +  w_prompt · D_prompt(E(p_c), c')  +  w_llm · L_llm

x = E(p_s) and E(p_c) are the text features of the simple and the complex prompt, c' the adapted features, v the LLM's vector, q the query.
D_prompt is the paper's KL divergence of token i of both prompts (`kl`), or the difference of cross-attention outputs (`prompt_attention`).
L_llm is `prompt_attention` of the LLM's answer to a sentence and the adapted features of the sentence, or the paper's KL(FCN(v) ‖ q).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sur_adapter.features.query_bank import CrossAttention
from sur_adapter.training.prompt_attention import PromptAttention


def diffusion(target: Tensor, prediction: Tensor, weight: Tensor | None = None) -> Tensor:
    """Computes the mean of w(t) · ‖target − prediction‖². target, prediction (B, 4, h, w), weight (B,)."""
    if weight is None:
        return F.mse_loss(prediction, target)
    return (weight * F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)).mean()


def min_snr(snr: Tensor, gamma: float, prediction_type: str = "epsilon") -> Tensor:
    """Computes w(t) of Min-SNR (arXiv 2303.09556), (B,) -> (B,): min(SNR, γ) / SNR for noise, min(SNR, γ) / (SNR + 1) for velocity."""
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1.0)  # 1 at SNR 0


def kl(
    teacher: Tensor,
    student: Tensor,
    mask: Tensor | None = None,
    *,
    direction: str = "teacher_student",
    temperature: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Computes T² · KL(softmax(teacher / T) ‖ softmax(student / T)) over the last dimension; T² keeps the size of the gradient.

    teacher, student (B, L, d). direction: `teacher_student`, or `student_teacher` for KL(student ‖ teacher), which demands less where the
    teacher is broad. reduction: `mean` over the tokens of a prompt, or `sum` as in the published code; then the mean over prompts.
    mask (B, L): the tokens that count; a prompt with no unmasked token contributes 0.
    """
    t, s = ((x / temperature).log_softmax(-1) for x in (teacher, student))
    first, second = (t, s) if direction == "teacher_student" else (s, t)
    divergence = F.kl_div(second, first, reduction="none", log_target=True).sum(-1) * temperature**2  # (B, L)
    if mask is not None:
        divergence = divergence * mask
    if reduction == "sum":
        return divergence.sum(-1).mean()
    return divergence.mean() if mask is None else (divergence.sum(-1) / mask.sum(-1).clamp_min(1)).mean()


def prompt_attention(
    layers: list[CrossAttention],
    complex_embeds: Tensor,
    adapted_embeds: Tensor,
    *,
    num_queries: int = 32,
    generator: torch.Generator | None = None,
    mean: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """Compares the outputs of the U-Net's cross-attention under adapted and complex features.

    mean over layers l of  ‖Attn_l(Q; adapted) − Attn_l(Q; complex)‖² / Var[Attn_l(Q; complex)],  Q sampled from the layer's query bank.
    It does not depend on the order of tokens, nor on padding and tags that the U-Net ignores. complex_embeds, adapted_embeds (B, L, d).
    mean: averages over the processes that share the batch, so that Var is that of the whole batch. prompt_attention.py computes it.
    """
    attention = PromptAttention(layers)
    s = attention.sample(num_queries, generator)
    with torch.no_grad():
        target = attention.attend(s, complex_embeds)
    return attention.losses([(target, attention.attend(s, adapted_embeds))], [slice(None)], mean)[0]


def pooled(complex_pooled: Tensor, adapted_pooled: Tensor, mean: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """Computes ‖adapted − complex‖² / Var[complex] of SDXL's pooled vectors, (B, p) each. mean: as in prompt_attention.

    Var is over prompts and features together, so it is not zero for a batch of one.
    """
    with torch.no_grad():
        variance = mean((complex_pooled - mean(complex_pooled.mean())).square().mean())
    return (adapted_pooled - complex_pooled).square().mean() / variance.clamp_min(1e-8)


def mean_query(query: Tensor, mask: Tensor | None = None) -> Tensor:
    """Computes the mean of q over tokens, (B, L, d) -> (B, d). mask (B, L): the tokens that count, or how many tokens each stands for."""
    return query.mean(1) if mask is None else (query * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def llm(projected: Tensor, query: Tensor, mask: Tensor | None = None, row_mask: Tensor | None = None, divergence: Callable = kl) -> Tensor:
    """Computes KL(FCN(v) ‖ mean of q over tokens), both layer-normalised.

    projected = FCN(v) (B, d), query (B, L, d), mask: as in mean_query, row_mask (B,): the prompts that count.
    The paper compares q at every token with the same vector; the mean leaves q free to differ between tokens. If FCN is trained, both sides
    can become constant over the prompts; P z(v) of teacher.py is fixed.
    """
    d = query.shape[-1:]
    target, student = (F.layer_norm(x, d)[:, None] for x in (projected, mean_query(query, mask)))  # (B, 1, d)
    return divergence(target, student, None if row_mask is None else row_mask[:, None])
