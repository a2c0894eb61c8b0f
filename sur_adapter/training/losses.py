"""The three terms, named as in the paper (arXiv 2305.05189):

    L = w_diffusion · ‖ε − UNet(z_t, t, c')‖²  +  w_prompt · D_prompt(complex, adapted)  +  w_llm · KL(FCN(teacher) ‖ query)

D_prompt is `kl`, the paper's, or `attention`: alignment where the U-Net looks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from sur_adapter.features.query_bank import CrossAttention


def diffusion(target: Tensor, prediction: Tensor, weight: Tensor | None = None) -> Tensor:
    """w(t) · ‖target − prediction‖², mean over everything. [B, 4, h, w] each, weight [B]."""
    if weight is None:
        return F.mse_loss(prediction, target)
    return (weight * F.mse_loss(prediction, target, reduction="none").flatten(1).mean(1)).mean()


def min_snr(snr: Tensor, gamma: float, prediction_type: str = "epsilon") -> Tensor:
    """w(t) of Min-SNR (arXiv 2303.09556): min(SNR, γ) / SNR for noise, min(SNR, γ) / (SNR + 1) for velocity. [B] -> [B]."""
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    return (gamma / snr).clamp(max=1.0)  # 1 at SNR 0


def kl(
    teacher: Tensor,
    student: Tensor,
    kept: Tensor | None = None,
    *,
    direction: str = "teacher_student",
    temperature: float = 1.0,
    tokens: str = "mean",
) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)) over the last dimension, [B, L, d] each; T² keeps the gradient's size.

    direction: `teacher_student`, or `student_teacher` for the other way round, which asks for less where the teacher is broad.
    tokens: `mean` over those of a prompt, or their `sum`, as in the published code; then the mean over prompts.
    kept [B, L]: the tokens that count; a prompt without any counts nought.
    """
    t, s = ((x / temperature).log_softmax(-1) for x in (teacher, student))
    first, second = (t, s) if direction == "teacher_student" else (s, t)
    each = F.kl_div(second, first, reduction="none", log_target=True).sum(-1) * temperature**2  # (B, L)
    if kept is not None:
        each = each * kept
    if tokens == "sum":
        return each.sum(-1).mean()
    return each.mean() if kept is None else (each.sum(-1) / kept.sum(-1).clamp_min(1)).mean()


def prompt_kl(complex: Tensor, adapted: Tensor, kept: Tensor | None = None, kl: Callable = kl) -> Tensor:
    """The paper's: token i of one prompt against token i of the other."""
    return kl(complex, adapted, kept)


def prompt_attention(
    layers: list[CrossAttention], complex: Tensor, adapted: Tensor, sample: int = 32, mean: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    """mean over l of  ‖Attn_l(q; adapted) − Attn_l(q; complex)‖² / Var[Attn_l(q; complex)],  q drawn from each layer's bank.

    It does not care about the order of words, padding, or tags that the U-Net ignores. complex, adapted [B, L, d].
    mean: over the processes that share the batch, so that Var is the whole batch's.
    """
    complex, adapted = (words.to(layers[0].q.dtype) for words in (complex, adapted))  # once, not in every layer
    terms = []
    for layer in layers:
        q = layer.q[torch.randperm(len(layer.q))[:sample].to(layer.q.device)]  # (n, h·e)
        with torch.no_grad():
            wanted = layer(q, complex).float()  # (B, n, c)
            spread = mean((wanted - mean(wanted.mean((0, 1)))).square().mean())  # Var; torch.var takes ten times as long here
        terms.append((layer(q, adapted) - wanted).square().mean() / spread.clamp_min(1e-8))
    return torch.stack(terms).mean()


def pooled(complex: Tensor, adapted: Tensor, mean: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """‖adapted − complex‖² / Var[complex], of the one vector of a prompt that SDXL takes beside the words. [B, p] each.

    Var over prompts and features together: it is not nought for a batch of one.
    """
    with torch.no_grad():
        spread = mean((complex - mean(complex.mean())).square().mean())
    return (adapted - complex).square().mean() / spread.clamp_min(1e-8)


def llm(projected: Tensor, query: Tensor, kept: Tensor | None = None, counted: Tensor | None = None, kl: Callable = kl) -> Tensor:
    """KL(FCN(teacher) ‖ mean over tokens of query), both normalised so that neither can win by becoming flat.

    projected [B, d], one vector a prompt; query [B, L, d]. The mean, since a query that must be the same vector at every token,
    as in the paper, has no room left for what sets the tokens apart. kept [B, L]: the tokens it is taken over; counted [B]: the prompts.
    """
    d = query.shape[-1:]
    middle = query.mean(1) if kept is None else (query * kept[..., None]).sum(1) / kept.sum(1, keepdim=True).clamp_min(1)  # (B, d)
    target, student = (F.layer_norm(x, d)[:, None] for x in (projected, middle))  # (B, 1, d)
    return kl(target, student, None if counted is None else counted[:, None])
