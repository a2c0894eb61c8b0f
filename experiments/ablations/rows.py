"""The ablations: one row per change, and the settings that all rows share."""

from dataclasses import dataclass, field

from experiments.ablations.teachers import ACCURACIES, teacher_changes

STEPS, PROMPTS = 600, 40  # of a short training; development prompts of each category
DEVELOPMENT = "prompts/development"
SHORT = {
    "train.steps": STEPS,
    "generate.prompts": DEVELOPMENT,
    "generate.per_category": PROMPTS,
    "generate.seeds": 1,
    "evaluate.clip": None,
    "evaluate.bootstrap_resamples": 1000,
}
DIFFUSION = {"loss.w_diffusion": 1.0, "loss.w_prompt": 0.0}
PUBLISHED = {
    "loss.prompt": "kl", "loss.token_reduction": "sum", "loss.w_prompt": 1e-5, "loss.w_llm": 1e-5, "loss.llm": "kl",
    "loss.sentences": 0, "loss.projection": "frozen",
    "loss.complex_prompt_prob": 0.0, "train.optimizer": "adamw", "train.weight_decay": 0.01, "train.betas": [0.9, 0.999],
    "train.lr_scheduler": "constant", "train.warmup_ratio": 0.0,
}  # fmt: skip
DECODED, PAPER_LLM = {"loss.llm": "decoded"}, {"loss.llm": "kl", "loss.sentences": 0}


@dataclass(frozen=True)
class Row:
    """changes: keys of params.yaml and their values; a key that params.yaml lacks begins with +. seeds: number of trainings. shared:
    settings beside the changes. against: the reference row, from which it differs in one thing.

    Keys that change images, captions or pairs are not for rows: a run starts from the cached features.
    """

    label: str
    changes: dict = field(default_factory=dict)
    seeds: int = 3
    shared: dict = field(default_factory=lambda: SHORT)
    against: str | None = "ours"


ROWS = {
    "full": Row("default, as in params.yaml", seeds=5, shared={}, against=None),
    "full-no-llm": Row("w_llm 0: no text rows", {"loss.w_llm": 0.0}, shared={}, against="full"),
    "full-published": Row(
        "published objective, same frozen models, data and steps", PUBLISHED | {"train.lr": 1e-5}, shared={}, against="full"
    ),
    "full-keep-3": Row("3 % of plain prompts replaced by keyword prompts", {"loss.complex_prompt_prob": 0.03}, 5, {}, "full"),
    "ours": Row("default", against=None),
    "published": Row(
        "published objective: lr 1e-5, diffusion loss detached (so it trains nothing), projection frozen", PUBLISHED | {"train.lr": 1e-5}
    ),
    "published-lr": Row(
        "published objective with the default learning rate and optimizer", {k: v for k, v in PUBLISHED.items() if k.startswith("loss.")}
    ),
    "no-llm": Row("w_llm 0: no text rows", {"loss.w_llm": 0.0}),
    "no-whiten": Row("input of the adapter not whitened", {"adapter.whiten": False}),
    "no-prompt": Row("w_prompt 0, w_diffusion 1", DIFFUSION),
    "llm-0.1": Row("w_llm 0.1", {"loss.w_llm": 0.1}),
    "llm-0.5": Row("w_llm 0.5", {"loss.w_llm": 0.5}),
    "target-decoded": Row("LLM target: hidden states of its answers, decoded", {"loss.llm": "decoded"}),
    "target-kl": Row("LLM target: the paper's KL, on pairs and text rows", {"loss.llm": "kl"}),
    "target-kl-pairs": Row("the same on pairs alone", {"loss.llm": "kl", "loss.sentences": 0}, against="target-kl"),
    "target-kl-trained": Row(
        "the same as on pairs alone, projection trained", PAPER_LLM | {"loss.projection": "trained"}, against="target-kl-pairs"
    ),
    "decoded-layer-1": Row("decoded from LLM layer 1, the first", DECODED | {"cache.llm.layers": [1]}, against="target-decoded"),
    "decoded-layer-4": Row("decoded from LLM layer 4, the middle", DECODED | {"cache.llm.layers": [4]}, against="target-decoded"),
    "decoded-layer-8": Row("decoded from LLM layer 8, the last", DECODED | {"cache.llm.layers": [8]}, against="target-decoded"),
    "decoded-mean": Row("decoded from the mean over tokens", DECODED | {"cache.llm.pooling": "mean"}, against="target-decoded"),
    "decoded-tokens": Row("decoded from every token", DECODED | {"cache.llm.pooling": "tokens"}, against="target-decoded"),
    "decoded-eol": Row("decoded from the answer in one word", DECODED | {"cache.llm.pooling": "prompt_eol"}, against="target-decoded"),
    "text-16": Row("16 text rows a step", {"loss.sentences": 16}),
    "text-32": Row("32 text rows a step", {"loss.sentences": 32}),
    "text-64": Row("64 text rows a step", {"loss.sentences": 64}),
    "sentences-2k": Row("2,000 sentences", {"sentences.sources.miniature.count": 2000}),
    "sentences-8k": Row("8,000 sentences", {"sentences.sources.miniature.count": 8000}),
    "sentences-20k": Row("20,000 sentences", {"sentences.sources.miniature.count": 20000}),
    "sure-0.1": Row("answers surer than -0.1", {"loss.min_logprob": -0.1}),
    "sure-0.3": Row("answers surer than -0.3", {"loss.min_logprob": -0.3}),
    "sure-all": Row("all answers, however unsure", {"loss.min_logprob": None}),
    **{
        f"teacher-{accuracy:.0%}".rstrip("%"): Row(f"a teacher that is right in {accuracy:.0%}", teacher_changes(accuracy), against="ours")
        for accuracy in ACCURACIES
    },
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
    "padding-8": Row("8 padding tokens of a prompt kept in training", {"train.padding_tokens": 8}),
    "padding-2": Row("2 padding tokens of a prompt kept in training", {"train.padding_tokens": 2}),
}
