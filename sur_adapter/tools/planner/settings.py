"""The sections of params.yaml that a plan depends on, each as the dataclass of its consumer."""

from dataclasses import dataclass
from typing import Any

from sur_adapter.adapter.config import AdapterParams
from sur_adapter.config import Params, from_dict
from sur_adapter.data.sentence_selection.selection import SOURCES, SentencesConfig
from sur_adapter.evaluation.evaluator import EvaluateConfig
from sur_adapter.features.extractors import clip, llm, queries, sentences, vae
from sur_adapter.generation.sampling import GenerateConfig, SweepConfig
from sur_adapter.models.captioner import CaptionConfig
from sur_adapter.models.config import ModelsConfig
from sur_adapter.registry import load
from sur_adapter.training.config import LossConfig, TrainConfig


@dataclass(frozen=True)
class PlanSettings:
    """sources, scores, sentence_sources: name -> the `Config` of its plug-in. filter: the keys of this section, unchecked."""

    sources: dict[str, Any]
    scores: dict[str, Any]
    filter: dict[str, Any]
    adapter: AdapterParams
    caption: CaptionConfig
    models: ModelsConfig
    cache_clip: clip.Config
    cache_llm: llm.Config
    cache_vae: vae.Config
    cache_queries: queries.Config
    sentences: SentencesConfig
    sentence_sources: dict[str, Any]
    cache_sentences: sentences.Config
    loss: LossConfig
    train: TrainConfig
    generate: GenerateConfig
    sweep: SweepConfig
    evaluate: EvaluateConfig

    @classmethod
    def read(cls, params: Params) -> "PlanSettings":
        """Raises ValueError for a section that is missing or that its consumer would refuse."""
        chosen = params.section("sentences", SentencesConfig, required=False)
        sentence_sources = {
            name: from_dict(_config(SOURCES, name), keys or {}, f"sentences.sources.{name}") for name, keys in chosen.sources.items()
        }
        return cls(
            sources={name: params.section(f"sources.{name}", _config("sur_adapter.data.sources", name)) for name in params.raw("sources")},
            scores={name: params.section(f"scores.{name}", _config("sur_adapter.data.scores", name)) for name in params.raw("scores")},
            filter=dict(params.raw("filter")),
            adapter=params.section("adapter", AdapterParams),
            caption=params.section("caption", CaptionConfig),
            models=params.section("models", ModelsConfig),
            cache_clip=params.section("cache.clip", clip.Config),
            cache_llm=params.section("cache.llm", llm.Config),
            cache_vae=params.section("cache.vae", vae.Config),
            cache_queries=params.section("cache.queries", queries.Config),
            sentences=chosen,
            sentence_sources=sentence_sources,
            cache_sentences=params.section("cache.sentences", sentences.Config, required=False),
            loss=params.section("loss", LossConfig),
            train=params.section("train", TrainConfig),
            generate=params.section("generate", GenerateConfig),
            sweep=params.section("sweep", SweepConfig),
            evaluate=params.section("evaluate", EvaluateConfig),
        )


def _config(package: str, plug_in: str) -> type:
    return load(package, plug_in).Config
