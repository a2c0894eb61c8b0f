"""A visual question answering model: each atom of a prompt is a question with choices, one of which is right.

The probability of a verdict is the mean probability of the right answers (Soft-TIFA); the verdict is 1 if every right answer is the most
probable of its choices. Questions come with the prompts, {"q", "a", "choices" (by default yes and no)}, so no LLM is needed. Use a model
that no other stage uses: BLIP writes the captions, so BLIP-VQA is the light judge, and a chat model such as Qwen-VL the one to report.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BlipForQuestionAnswering

from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors
from sur_adapter.models.torch_utils import resolve_device

PARAM = "evaluate.judge.vqa.model"
YES_NO = ["yes", "no"]


@dataclass(frozen=True)
class Config:
    """model: any BlipForQuestionAnswering, or any image-text-to-text model with a chat template."""

    model: str = "Qwen/Qwen2.5-VL-7B-Instruct"


def verdicts(images: Sequence[Image.Image], prompts: Sequence[dict], config: Config) -> np.ndarray:
    """Asks the questions of each prompt. Returns (N, 2): whether every answer is right, 0 or 1; mean probability of the right answers.

    Raises ValueError for a prompt without atoms, or an atom whose answer is not one of its choices.
    """
    questions = [_questions(prompt) for prompt in prompts]
    model = load(config.model)
    results = []
    for image, atoms in zip(images, questions, strict=True):
        answers = [
            _right_answer(model.choice_probabilities(image, question, choices), choices.index(answer))
            for question, answer, choices in atoms
        ]
        results.append((all(right for right, _ in answers), np.mean([p for _, p in answers])))
    return np.array(results, float)  # (N, 2)


def _right_answer(p: np.ndarray, answer: int) -> tuple[bool, float]:
    """Returns whether the right answer is more probable than every other choice, and its probability. p (C,)."""
    return p[answer] > np.delete(p, answer).max(initial=0), p[answer]


def _questions(prompt: dict) -> list[tuple[str, str, list[str]]]:
    """Returns (question, right answer, choices) of each atom."""
    if not prompt.get("atoms"):
        raise ValueError(f"prompt {prompt['id']!r} has no `atoms`, which `vqa` reads: add them, or set evaluate.judge to null")
    atoms = [(atom["q"], atom["a"], atom.get("choices", YES_NO)) for atom in prompt["atoms"]]
    for question, answer, choices in atoms:
        if answer not in choices or len(set(choices)) < max(len(choices), 2):
            raise ValueError(
                f"prompt {prompt['id']!r}: {question!r} has the answer {answer!r}: give it two or more choices, the answer one of them"
            )
    return atoms


@cache
def load(model: str) -> "BlipVQA | ChatVQA":
    """Loads the model of a folder or hub id, once. Raises FileNotFoundError if there is none, ValueError if it answers no questions."""
    with loading_errors(PARAM, model):
        config = AutoConfig.from_pretrained(model, **NO_REMOTE_CODE)
    return (BlipVQA if config.model_type == "blip" else ChatVQA)(model, config)


class BlipVQA:
    """P(choice) ∝ Π p(token | previous tokens, question, image) over the tokens of the whole choice and its end token."""

    def __init__(self, model: str, config):
        if "BlipForQuestionAnswering" not in (config.architectures or []):
            raise ValueError(
                f"params.yaml: {PARAM} is {model!r}, a BLIP that does not answer questions: name one such as Salesforce/blip-vqa-base"
            )
        with loading_errors(PARAM, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            weights = BlipForQuestionAnswering.from_pretrained(model, dtype=_dtype(), **SAFETENSORS_ONLY)
        self.model = weights.to(resolve_device()).eval()

    @torch.inference_mode()
    def choice_probabilities(self, image: Image.Image, question: str, choices: list[str]) -> np.ndarray:
        """Returns the probability of each choice, (C,), which sum to 1."""
        encoded = self._encode(image, question).expand(len(choices), -1, -1)  # (C, T, d)
        ids, mask = self._tokenize(choices)
        logits = self.model.text_decoder(ids, attention_mask=mask, encoder_hidden_states=encoded).logits[:, :-1]  # (C, A − 1, V)
        log_p = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]  # (C, A − 1)
        return (log_p * mask[:, 1:]).sum(-1).softmax(0).cpu().numpy()

    def _encode(self, image: Image.Image, question: str) -> Tensor:
        """Encodes the question to hidden states with attention to the image, (1, T, d)."""
        inputs = self.processor(images=image, text=question, truncation=True, return_tensors="pt").to(self.model.device)
        patches = self.model.vision_model(pixel_values=inputs.pixel_values.to(self.model.dtype)).last_hidden_state  # (1, P, d)
        return self.model.text_encoder(inputs.input_ids, attention_mask=inputs.attention_mask, encoder_hidden_states=patches)[0]

    def _tokenize(self, choices: list[str]) -> tuple[Tensor, Tensor]:
        """Encodes the choices to token ids that begin with the decoder's start token, and their attention mask, (C, A) each."""
        tokens = self.processor.tokenizer(choices, padding=True, return_tensors="pt").to(self.model.device)
        tokens.input_ids[:, 0] = self.model.decoder_start_token_id
        return tokens.input_ids, tokens.attention_mask


class ChatVQA:
    """P(choice) ∝ p(its first token | question, image), in lower case or capitalised."""

    def __init__(self, model: str, config):
        with loading_errors(PARAM, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            weights = AutoModelForImageTextToText.from_pretrained(model, dtype=_dtype(), **SAFETENSORS_ONLY)
        self.model = weights.to(resolve_device()).eval()
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(
                f"params.yaml: {PARAM} is {model!r}, which has no chat template: name a chat model such as Qwen/Qwen2.5-VL-7B-Instruct"
            )

    @torch.inference_mode()
    def choice_probabilities(self, image: Image.Image, question: str, choices: list[str]) -> np.ndarray:
        """Returns the probability of each choice, (C,), which sum to 1. Raises ValueError if two choices begin with the same token."""
        first_tokens = self._first_tokens(choices)
        text = f"{question} Answer with one of these, and nothing else: {', '.join(choices)}."
        message = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}
        inputs = self.processor.apply_chat_template(
            [message], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        p = self.model(**inputs.to(self.model.device, self.model.dtype)).logits[0, -1].float().softmax(-1)  # (V,)
        p = torch.stack([p[tokens].sum() for tokens in first_tokens]).double()  # (C,)
        return (p / p.sum()).cpu().numpy()

    def _first_tokens(self, choices: list[str]) -> list[list[int]]:
        """Returns the tokens that each choice may begin with: its own, and that of its capitalised form if no other choice has it."""
        lower, upper = (self._token_ids(choices), self._token_ids([c[:1].upper() + c[1:] for c in choices]))
        if len(set(lower)) < len(lower):
            raise ValueError(
                f"two of the choices {', '.join(choices)} begin with the same token: give the question choices that begin differently"
            )
        unique = [token for token in upper if token not in lower and upper.count(token) == 1]
        return [[first, *({other} & set(unique))] for first, other in zip(lower, upper, strict=True)]

    def _token_ids(self, words: list[str]) -> list[int]:
        return [self.processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]


def _dtype() -> torch.dtype:
    return torch.bfloat16 if resolve_device() == "cuda" else torch.float32
