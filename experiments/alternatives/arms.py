"""The arms: what a user may do with plain sentences, each with its prompt, its training and what it needs when images are drawn."""

from dataclasses import dataclass, field

from experiments.ablations.rows import PUBLISHED

RATES = (3e-4, 1e-3, 3e-3)  # learning rates to choose from, on development prompts
ADAMW = {"train.optimizer": "adamw", "train.weight_decay": 0.01, "train.betas": [0.9, 0.999]}
LORA = ADAMW | {"loss.w_llm": 0.0, "loss.empty_prompt_prob": 0.05}


@dataclass(frozen=True)
class Training:
    """changes: of params.yaml. kind: `train` is the stage, which trains an adapter; `lora` is lora.py. rates: learning rates of which the
    best on development prompts is used; none for that of params.yaml or of the changes."""

    changes: dict = field(default_factory=dict)
    kind: str = "train"
    rates: tuple[float, ...] = ()


@dataclass(frozen=True)
class Arm:
    """label: in the table. drawn_as: the arm of the stage generate that draws it, which decides the prompt. needs: what it needs when an
    image is drawn, beside the base model. learns: the loss, in words."""

    label: str
    drawn_as: str
    needs: str
    learns: str = ""
    training: Training | None = None


OURS = "adapter"
ARMS = {
    "base": Arm("base model, plain sentence", "baseline", "nothing"),
    "keyword": Arm("keyword prompt", "complex", "a person who writes the keyword prompt"),
    "rewrite": Arm("LLM rewrites the sentence", "rewrite", "the LLM, for every prompt"),
    OURS: Arm(
        "our adapter",
        "adapter",
        "the adapter",
        "cross-attention outputs of plain and keyword prompts, and of sentences and the LLM's answers",
        Training(),
    ),
    "published": Arm(
        "adapter as in the published code",
        "adapter",
        "the adapter",
        "two KL terms with weights 1e-5, published network and learning rate; its diffusion loss trains nothing there, and is left out",
        Training(PUBLISHED | {"train.lr": 1e-5, "adapter.variant": "official", "adapter.heads": 8, "adapter.strength": None}),
    ),
    "paper": Arm(
        "adapter by the paper's equations",
        "adapter",
        "the adapter",
        "diffusion loss with its gradient, and two KL terms with weights 1e-5; the paper's network, a trained projection",
        Training(
            PUBLISHED | {"adapter.variant": "paper", "adapter.whiten": False, "loss.w_diffusion": 1.0, "loss.projection": "trained"},
            rates=RATES,
        ),
    ),
    "lora": Arm(
        "LoRA of the text encoder, diffusion loss",
        "baseline",
        "the LoRA, or nothing once it is merged",
        "diffusion loss of plain caption and image through the frozen U-Net",
        Training(LORA | {"loss.w_diffusion": 1.0, "loss.w_prompt": 0.0}, "lora", RATES),
    ),
    "lora_distilled": Arm(
        "LoRA of the text encoder, our prompt loss",
        "baseline",
        "the LoRA, or nothing once it is merged",
        "cross-attention outputs of plain and keyword prompts, without a teacher",
        Training(LORA | {"loss.w_diffusion": 0.0, "loss.w_prompt": 1.0}, "lora", RATES),
    ),
}
