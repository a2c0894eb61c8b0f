"""A model that can be asked: every atom of a prompt is a question with choices, of which one is right.

soft: the mean probability of the right answers (Soft-TIFA); shown: every right answer is the likeliest of its choices. The questions
travel with the prompts, {"q", "a", "choices" (yes and no unless given)}, so no LLM is asked. Take a model that nothing was trained on: BLIP
writes the captions, so that of BLIP's kind is the light judge, and a chat model such as Qwen-VL the one to report.
"""

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BlipForQuestionAnswering

from sur_adapter.models import torch_utils as compute
from sur_adapter.models.loading import NO_REMOTE_CODE, SAFETENSORS_ONLY, loading_errors

PARAM = "evaluate.judge.vqa.model"
YES_NO = ["yes", "no"]


def verdicts(images: list[Image.Image], prompts: list[dict], *, model: str = "Qwen/Qwen2.5-VL-7B-Instruct") -> np.ndarray:
    """(N, 2): shown, 0 or 1; soft, 0 … 1. model: any of BlipForQuestionAnswering, or any image-text-to-text model with a chat template.

    Raises ValueError for a prompt without atoms, or an atom whose answer is none of its choices.
    """
    asked = [_atoms(prompt) for prompt in prompts]
    told = load(model)
    found = []
    for image, atoms in zip(images, asked, strict=True):
        right = [_right(told.ask(image, question, choices), choices.index(answer)) for question, answer, choices in atoms]
        found.append((all(first for first, _ in right), np.mean([p for _, p in right])))
    return np.array(found, float)  # (N, 2)


def _right(p: np.ndarray, answer: int) -> tuple[bool, float]:
    """Whether the right answer is likelier than every other, and how likely it is, p (C,)."""
    return p[answer] > np.delete(p, answer).max(initial=0), p[answer]


def _atoms(prompt: dict) -> list[tuple[str, str, list[str]]]:
    """(question, right answer, choices) of each atom."""
    if not prompt.get("atoms"):
        raise ValueError(f"prompt {prompt['id']!r} has no `atoms`, which `vqa` asks: add them, or set evaluate.judge to null")
    atoms = [(atom["q"], atom["a"], atom.get("choices", YES_NO)) for atom in prompt["atoms"]]
    for question, answer, choices in atoms:
        if answer not in choices or len(set(choices)) < max(len(choices), 2):
            raise ValueError(
                f"prompt {prompt['id']!r}: {question!r} has the answer {answer!r}: give it two or more choices, the answer one of them"
            )
    return atoms


@cache
def load(model: str) -> "Blip | Chat":
    """Loaded once. FileNotFoundError where there is none, ValueError where it cannot be asked."""
    with loading_errors(PARAM, model):
        config = AutoConfig.from_pretrained(model, **NO_REMOTE_CODE)
    return (Blip if config.model_type == "blip" else Chat)(model, config)


class Blip:
    """P(choice) ∝ Π p(token | tokens before, question, picture) over the tokens of the whole choice and its end."""

    def __init__(self, model: str, config):
        if "BlipForQuestionAnswering" not in (config.architectures or []):
            raise ValueError(
                f"params.yaml: {PARAM} is {model!r}, a BLIP that answers no questions: name one such as Salesforce/blip-vqa-base"
            )
        with loading_errors(PARAM, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.model = BlipForQuestionAnswering.from_pretrained(model, dtype=_dtype(), **SAFETENSORS_ONLY).to(compute.resolve_device()).eval()

    @torch.inference_mode()
    def ask(self, image: Image.Image, question: str, choices: list[str]) -> np.ndarray:
        """(C,), sums to 1."""
        seen = self._seen(image, question).expand(len(choices), -1, -1)  # (C, T, d)
        ids, mask = self._answers(choices)
        logits = self.model.text_decoder(ids, attention_mask=mask, encoder_hidden_states=seen).logits[:, :-1]  # (C, A − 1, V)
        likely = logits.float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]  # (C, A − 1)
        return (likely * mask[:, 1:]).sum(-1).softmax(0).cpu().numpy()

    def _seen(self, image: Image.Image, question: str) -> Tensor:
        """The question, read with the picture before the eyes: (1, T, d)."""
        inputs = self.processor(images=image, text=question, truncation=True, return_tensors="pt").to(self.model.device)
        patches = self.model.vision_model(pixel_values=inputs.pixel_values.to(self.model.dtype)).last_hidden_state  # (1, P, d)
        return self.model.text_encoder(inputs.input_ids, attention_mask=inputs.attention_mask, encoder_hidden_states=patches)[0]

    def _answers(self, choices: list[str]) -> tuple[Tensor, Tensor]:
        """Tokens that begin with the decoder's own mark, and which are no padding: (C, A) each."""
        words = self.processor.tokenizer(choices, padding=True, return_tensors="pt").to(self.model.device)
        words.input_ids[:, 0] = self.model.decoder_start_token_id
        return words.input_ids, words.attention_mask


class Chat:
    """P(choice) ∝ p(its first token | question, picture), in small or capital letters."""

    def __init__(self, model: str, config):
        with loading_errors(PARAM, model):
            self.processor = AutoProcessor.from_pretrained(model, **NO_REMOTE_CODE)
            self.model = AutoModelForImageTextToText.from_pretrained(model, dtype=_dtype(), **SAFETENSORS_ONLY).to(compute.resolve_device()).eval()
        if not getattr(self.processor, "chat_template", None):
            raise ValueError(
                f"params.yaml: {PARAM} is {model!r}, which has no chat template: name a chat model such as Qwen/Qwen2.5-VL-7B-Instruct"
            )

    @torch.inference_mode()
    def ask(self, image: Image.Image, question: str, choices: list[str]) -> np.ndarray:
        """(C,), sums to 1. Raises ValueError where two choices begin with the same token."""
        first = self._first(choices)
        text = f"{question} Answer with one of these, and nothing else: {', '.join(choices)}."
        turn = {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": text}]}
        inputs = self.processor.apply_chat_template(
            [turn], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        p = self.model(**inputs.to(self.model.device, self.model.dtype)).logits[0, -1].float().softmax(-1)  # (V,)
        found = torch.stack([p[tokens].sum() for tokens in first]).double()  # (C,)
        return (found / found.sum()).cpu().numpy()

    def _first(self, choices: list[str]) -> list[list[int]]:
        """What each choice may begin with: its first token, and that of its capital form where it is no other choice's."""
        small, capital = (self._token(choices), self._token([c[:1].upper() + c[1:] for c in choices]))
        if len(set(small)) < len(small):
            raise ValueError(
                f"two of the choices {', '.join(choices)} begin with the same token: give the question choices that begin differently"
            )
        own = [token for token in capital if token not in small and capital.count(token) == 1]
        return [[first, *({other} & set(own))] for first, other in zip(small, capital, strict=True)]

    def _token(self, words: list[str]) -> list[int]:
        return [self.processor.tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]


def _dtype() -> torch.dtype:
    return torch.bfloat16 if compute.resolve_device() == "cuda" else torch.float32
