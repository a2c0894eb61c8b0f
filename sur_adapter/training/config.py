"""Settings of a training: the sections `train` and `loss` of params.yaml."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainConfig:
    """Section `train` of params.yaml.

    batch_size: pairs of one micro-batch, over all processes together; a step takes `gradient_accumulation_steps` of them. processes: on
    this machine, `auto` for one per GPU; launch: a launcher instead, e.g. `accelerate launch …` (docs/scale.md). precision: of matrix
    products; weights and optimizer stay fp32. warmup_ratio: share of the steps. max_grad_norm: null does not clip. ema_decay: decay of an
    exponential moving average of the weights, which then is validated and saved; null for none. save_best: save the weights with the
    lowest validation loss instead of the last ones. patience: evaluations without improvement before the training stops; null for never.
    report_to: a tracker of accelerate that also gets the history. compile, channels_last, gradient_checkpointing: for the U-Net.

    padding_tokens: padding tokens of each prompt that are kept in training (thinning.py); null keeps all. All are kept wherever a term
    needs them: w_diffusion above 0, `loss.prompt: kl`, the variant `official`; and in validation and inference.
    """

    steps: int
    batch_size: int
    lr: float
    gradient_accumulation_steps: int = 1
    seed: int = 0
    padding_tokens: int | None = 8
    eval_steps: int = 200
    device: str = "auto"
    processes: int | Literal["auto"] = 1
    launch: str | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    optimizer: Literal["muon", "adamw"] = "muon"
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.1
    max_grad_norm: float | None = 1.0
    ema_decay: float | None = None
    save_best: bool = False
    patience: int | None = None
    checkpointing_steps: int | None = 100
    report_to: Literal["dvclive", "tensorboard", "wandb"] | None = None
    compile: bool = False
    channels_last: bool = False
    gradient_checkpointing: bool = False

    def __post_init__(self):
        counts = ("steps", "batch_size", "gradient_accumulation_steps", "eval_steps", "processes", "patience", "checkpointing_steps")
        for key in (*counts, "padding_tokens"):
            value = getattr(self, key)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{key} is {value}: give at least 1")
        for key in ("lr", "max_grad_norm"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"{key} is {value}: give a number above 0")
        if not 0 <= self.warmup_ratio <= 1:
            raise ValueError(f"warmup_ratio is {self.warmup_ratio}: give a share of the steps, 0 to 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay is {self.ema_decay}: give a decay above 0 and below 1, such as 0.999, or null")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}: give 0 or more")


@dataclass(frozen=True)
class LossConfig:
    """Section `loss` of params.yaml: L = w_diffusion · L_diffusion + w_prompt · L_prompt + w_llm · L_llm.

    A term of weight 0 is not computed, and reads nothing. prompt: form of the prompt loss. num_queries: queries of each cross-attention
    layer that the `attention` losses sample in a step. kl_direction, temperature, token_reduction: of the KL divergence (losses.kl).
    mask_padding: padding does not count in `kl` and in the query's mean. target: of the diffusion loss, the `noise` (or the velocity, as
    the scheduler says), or what the U-Net predicts under the `complex` prompt. t_min <= t < t_max: range of the timesteps.
    snr_gamma: γ of Min-SNR weights (arXiv 2303.09556). rescale_betas_zero_snr: noise alone at the last timestep (arXiv 2305.08891).
    noise_offset: share of noise that is constant over a channel.

    llm: form of L_llm (teacher.py). With s a sentence without an image, a the LLM's answer to it (a keyword prompt), v the LLM's hidden
    states of it, and D the difference of cross-attention outputs (losses.prompt_attention), on text rows (s, a):
        words      D(E(a), c'(s))
        decoded    D(G(v), c'(s)), G a decoder fitted first for `decoder_steps` steps to lower D(E(a), G(v)), then frozen
        kl         KL(P z(v) ‖ mean q), the paper's term, on the pairs (and text rows, if there are any); z standardises v
    sentences: text rows beside each micro-batch of pairs, over all processes together. min_logprob: least token log-probability of an
    answer that is used; rows without one, whose answer came with the sentence, are used; null uses all. projection: P of `kl`,
    `standardised` (fixed: z and a random orthogonal map, seeded and saved), or the paper's unrestricted map, `trained`, with which both
    sides can become constant, or `frozen` at its random start as in the published code.

    empty_prompt_prob: probability of replacing both prompts by the empty one. Guidance needs the unconditional branch to stay the base
    model's: in those rows the U-Net gets the plain features of the empty prompt, the prompt loss asks the adapter not to change them, and
    `kl` of the LLM does not count. complex_prompt_prob: probability of replacing the simple prompt by the complex one, which the adapter
    should not change (identity regularisation); `kl` of the LLM does not count there either. Text rows are never replaced.
    """

    w_diffusion: float
    w_prompt: float
    w_llm: float = 1.0
    prompt: Literal["attention", "kl"] = "attention"
    num_queries: int = 4
    llm: Literal["words", "decoded", "kl"] = "words"
    sentences: int = 64
    min_logprob: float | None = -0.5
    decoder_steps: int = 500
    kl_direction: Literal["teacher_student", "student_teacher"] = "teacher_student"
    temperature: float = 1.0
    token_reduction: Literal["mean", "sum"] = "mean"
    mask_padding: bool = False
    target: Literal["noise", "complex"] = "noise"
    t_min: int = 0
    t_max: int | None = None
    snr_gamma: float | None = None
    rescale_betas_zero_snr: bool = False
    noise_offset: float = 0.0
    empty_prompt_prob: float = 0.0
    complex_prompt_prob: float = 0.0
    projection: Literal["standardised", "trained", "frozen"] = "standardised"

    def __post_init__(self):
        if not (self.w_diffusion or self.w_prompt or self.w_llm):
            raise ValueError("w_diffusion, w_prompt and w_llm are all 0: give at least one of them a weight")
        for key in ("empty_prompt_prob", "complex_prompt_prob"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key} is {getattr(self, key)}: give a probability, 0 to 1")
        for key in ("temperature", "snr_gamma"):
            value = getattr(self, key)
            if value is not None and value <= 0:
                raise ValueError(f"{key} is {value}: give a number above 0")
        for key, least in (("num_queries", 1), ("decoder_steps", 1), ("sentences", 0)):
            if getattr(self, key) < least:
                raise ValueError(f"{key} is {getattr(self, key)}: give at least {least}")
        if self.w_llm and self.llm != "kl" and not self.sentences:
            raise ValueError(
                f"sentences is 0, and llm {self.llm!r} learns from sentences alone: give their number a step, or set w_llm to 0"
            )
        if self.t_min < 0 or (self.t_max is not None and self.t_max <= self.t_min):
            raise ValueError(f"t_min is {self.t_min} and t_max {self.t_max}: choose 0 <= t_min < t_max, or null for all timesteps")

    @property
    def uses_latents(self) -> bool:
        """Whether a term needs the latents of the images."""
        return bool(self.w_diffusion)

    @property
    def uses_answer_states(self) -> bool:
        """Whether this form of L_llm needs the LLM's hidden states of the answers, whatever its weight."""
        return self.llm != "words"

    @property
    def uses_queries(self) -> bool:
        """Whether a term needs the query bank."""
        return bool(self.w_prompt and self.prompt == "attention") or bool(self.w_llm and self.llm != "kl")

    @property
    def uses_projection(self) -> bool:
        """Whether a term needs the LLM's vectors of the pairs and their projection."""
        return bool(self.w_llm) and self.llm == "kl"

    @property
    def unread_features(self) -> dict[str, str]:
        """Features of the pairs that no term reads: their name in the stage `cache` -> the reason, as part of a sentence.

        Only w_diffusion and llm decide, as dvc.yaml lists for `cache`. w_llm does not, so that another weight computes no features again.
        """
        reasons = {}
        if not self.uses_latents:
            reasons["vae"] = "loss.w_diffusion is 0, and only the diffusion loss reads latents"
        if self.llm != "kl":
            reasons["llm"] = f"loss.llm is {self.llm}, and only kl reads the LLM's vectors of the pairs"
        return reasons
