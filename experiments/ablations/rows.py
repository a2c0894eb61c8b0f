"""The ablations: one row per change, and the settings that all rows share."""

from dataclasses import dataclass, field

SHORT = {
    "train.steps": 400,
    "generate.seeds": 1,
    "sweep.strengths": [],
    "evaluate.bootstrap_resamples": 1000,
}
DIFFUSION = {"loss.w_diffusion": 1.0, "loss.w_prompt": 0.0}
PUBLISHED = {
    "loss.prompt": "kl", "loss.token_reduction": "sum", "loss.w_prompt": 1e-5, "loss.w_llm": 1e-5, "loss.projection": "frozen",
    "loss.complex_prompt_prob": 0.0, "train.optimizer": "adamw", "train.weight_decay": 0.01, "train.betas": [0.9, 0.999],
    "train.lr_scheduler": "constant", "train.warmup_ratio": 0.0,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """changes: keys for `-S` of `dvc exp run`, with a + if params.yaml lacks it. seeds: number of trainings. shared: settings beside
    the changes. against: the reference row, from which it differs in one thing."""

    label: str
    changes: dict = field(default_factory=dict)
    seeds: int = 3
    shared: dict = field(default_factory=lambda: SHORT)
    against: str | None = "ours"


ROWS = {
    "full": Row("default, as in params.yaml", seeds=5, shared={"sweep.strengths": []}, against=None),
    "full-published": Row(
        "published objective, same frozen models, data and steps",
        PUBLISHED | {"train.lr": 1e-5},
        shared={"sweep.strengths": []},
        against="full",
    ),
    "full-keep-3": Row(
        "3 % of plain prompts replaced by keyword prompts", {"loss.complex_prompt_prob": 0.03}, 5, {"sweep.strengths": []}, "full"
    ),
    "ours": Row("default", against=None),
    "published": Row(
        "published objective: lr 1e-5, diffusion loss detached (so it trains nothing), projection frozen", PUBLISHED | {"train.lr": 1e-5}
    ),
    "published-lr": Row(
        "published objective with the default learning rate and optimizer", {k: v for k, v in PUBLISHED.items() if k.startswith("loss.")}
    ),
    "no-llm": Row("w_llm 0", {"loss.w_llm": 0.0}),
    "no-prompt": Row("w_prompt 0, w_diffusion 1", DIFFUSION),
    "llm-0.1": Row("w_llm 0.1", {"loss.w_llm": 0.1}),
    "llm-1": Row("w_llm 1", {"loss.w_llm": 1.0}),
    "layer-1": Row("LLM layer 1, the first, w_llm 0.1", {"cache.llm.layers": [1], "loss.w_llm": 0.1}, against="llm-0.1"),
    "layer-4": Row("LLM layer 4, the middle, w_llm 0.1", {"cache.llm.layers": [4], "loss.w_llm": 0.1}, against="llm-0.1"),
    "layer-8": Row("LLM layer 8, the last, w_llm 0.1", {"cache.llm.layers": [8], "loss.w_llm": 0.1}, against="llm-0.1"),
    "layer-all": Row(
        "mean of all LLM layers, w_llm 0.1",
        {"cache.llm.pooling": "layernorm-mean", "cache.llm.layers": "all", "loss.w_llm": 0.1},
        against="llm-0.1",
    ),
    "pool-mean": Row("LLM: mean over tokens, w_llm 0.1", {"cache.llm.pooling": "mean", "loss.w_llm": 0.1}, against="llm-0.1"),
    "kl": Row("prompt loss `kl`, the paper's", {"loss.prompt": "kl"}),
    "kl-reverse": Row("prompt loss `kl`, other direction", {"loss.prompt": "kl", "loss.kl_direction": "student_teacher"}, against="kl"),
    "kl-mask": Row("prompt loss `kl`, padding masked", {"loss.prompt": "kl", "loss.mask_padding": True}, against="kl"),
    "target-complex": Row(
        "w_prompt 0, w_diffusion 1, target: the U-Net under the keyword prompt", DIFFUSION | {"loss.target": "complex"}, against="no-prompt"
    ),
    "times-early": Row(
        "the same, noisy half of the timesteps only", DIFFUSION | {"loss.target": "complex", "loss.t_min": 500}, against="target-complex"
    ),
    "times-late": Row(
        "the same, clear half of the timesteps only",
        DIFFUSION | {"loss.target": "complex", "loss.t_max": 500},
        against="target-complex",
    ),
    "keep-0": Row("no plain prompt replaced by its keyword prompt", {"loss.complex_prompt_prob": 0.0}),
    "depth-1": Row("adapter of depth 1", {"adapter.depth": 1}),
    "depth-4": Row("adapter of depth 4", {"adapter.depth": 4}),
    "data-10": Row("10 % of the images", {"sources.miniature.count": 4000}),
    "data-30": Row("30 % of the images", {"sources.miniature.count": 12000}),
    "true-sentences": Row("true sentences instead of BLIP's captions", {"+sources.miniature.sentences": True}),
    "no-filter": Row("filter off: no CLIP thresholds", {"filter.clip_simple": -1.0, "filter.clip_complex": -1.0}),
}
