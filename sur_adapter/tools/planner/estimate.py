"""Estimates rows, disk, hours and memory of each stage from the settings and from measured rates.

CPU hours come from measured rates (measured_rates.py): `m` where this very work was measured, `s` where it is scaled. GPU hours are `e`,
estimated: operations over an assumed share (mfu) of the GPU's peak. Bytes of features follow from the data contract (stage_costs.py), those
of images from a mean size whose origin is noted.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from sur_adapter.adapter.config import AdapterConfig
from sur_adapter.generation.prompts import MAIN
from sur_adapter.tools.planner import sentence_costs, stage_costs, training_costs
from sur_adapter.tools.planner.measured_rates import MeasuredRates
from sur_adapter.tools.planner.model_specs import UnknownModelError
from sur_adapter.tools.planner.settings import PlanSettings
from sur_adapter.tools.planner.stage_costs import StageCost

BASE_BYTES = 0.61 * 2**30  # of a stage's libraries, before it has done anything (crawl.json)
FILTER_REASONS = {  # beside the scores
    "no_prompt", "nsfw", "too_small", "no_caption", "same_caption", "near_duplicate", "other_split", "made_up_prompt",
}  # fmt: skip
IMAGE_BYTES = {  # mean size: measured on 5,642 of the miniature's; published by DiffusionDB (2 million PNG, 14 million WebP)
    "miniature": 1039,
    "diffusiondb": 1.6e12 / 2e6,
    "diffusiondb, large": 6.5e12 / 14e6,
}


@dataclass(frozen=True)
class Assumptions:
    """rows: candidates, instead of those of params.yaml. image_bytes: mean size of an image. teraflops: peak of the GPU in bf16;
    teraflops_fp32: in fp32 (both of an A100); mfu: the share of it that is reached."""

    rows: int | None = None
    image_bytes: float | None = None
    mfu: float = 0.3
    teraflops: float = 312.0
    teraflops_fp32: float = 19.5

    def gpu_flops_per_second(self, precision: str) -> float:
        return (self.teraflops_fp32 if precision == "fp32" else self.teraflops) * 1e12 * self.mfu


@dataclass
class StageEstimate:
    """None: not known, and `note` says why. source: `m` or `s`, of the CPU seconds."""

    stage: str
    rows: int | None = None
    disk_bytes: float | None = None
    cpu_seconds: float | None = None  # of the machine that was measured
    gpu_seconds: float | None = None
    memory_bytes: float | None = None
    source: str = ""
    decoding_seconds: float = 0.0  # CPU seconds of image decoding, which a GPU does not save
    note: str = ""


@dataclass
class Plan:
    stages: list[StageEstimate]
    notes: list[str] = field(default_factory=list)
    assumptions: Assumptions = field(default_factory=Assumptions)


def make_plan(
    settings: PlanSettings,
    rates: MeasuredRates,
    funnel: dict | None = None,
    prompts: dict[str, dict[str, int]] | None = None,
    image_sizes: dict[str, float] | None = None,
    assumptions: Assumptions | None = None,
    sentence_report: dict | None = None,
) -> Plan:
    """Estimates all stages. funnel, sentence_report: of an earlier run. prompts: set of prompts -> category -> number of them.
    image_sizes: source -> mean bytes of its crawled images."""
    assumptions = assumptions or Assumptions()
    by_source = candidates(settings.sources, assumptions.rows)
    total = None if None in by_source.values() else sum(by_source.values())
    crawled, kept, kept_note = surviving_rows(total, settings, funnel)
    image_bytes, size_note = mean_size(settings.sources, by_source, assumptions.image_bytes, image_sizes or {}, rates)
    notes = [] if total is not None else ["the number of images in the sources is not known: give --rows"]
    notes += [kept_note, size_note]
    notes += _sentence_notes(settings, sentence_report)
    estimates = [
        _estimate(stage, cost if known else None, rates, assumptions, settings, image_bytes)
        for stage, cost, known in [
            *_data_stages(settings, total, crawled, kept, image_bytes, rates),
            *_model_stages(settings, kept, total is not None, prompts or {}, sentence_report, rates),
        ]
    ]
    if not prompts:
        notes.append(f"{settings.generate.prompts} holds no prompts that can be counted: generate, sweep and evaluate are left out")
    notes += _crawl_time_notes(settings.sources, by_source)
    if decoding := sum(estimate.decoding_seconds for estimate in estimates):
        notes.append(f"{decoding / 3600:,.3g} of the CPU hours are image decoding on one core: they stay if a GPU does the rest")
    return Plan(estimates, list(filter(None, notes)), assumptions)


Stages = list[tuple[str, Callable[[], StageCost], object]]  # name, its cost, whether its number of rows is known


def _data_stages(settings: PlanSettings, total: int | None, crawled: int, kept: int, image_bytes: float, rates: MeasuredRates) -> Stages:
    models, sentences = settings.models, settings.caption.sentences
    stages = [
        ("crawl", lambda: stage_costs.crawl(total, crawled, image_bytes), total),
        ("caption", lambda: stage_costs.caption(crawled, settings.caption), total),
        ("score", lambda: stage_costs.score(crawled, settings.scores, sentences), total),
        ("filter", lambda: stage_costs.filter_pairs(total + crawled * (sentences - 1)), total),
        ("cache@clip", lambda: stage_costs.cache_clip(kept, models, settings.cache_clip, sentences), total),
        ("cache@llm", lambda: stage_costs.cache_llm(kept, models, settings.cache_llm, rates.tokens_per_prompt), total),
        ("cache@vae", lambda: stage_costs.cache_vae(kept, models, settings.cache_vae), total),
        ("cache@queries", lambda: stage_costs.cache_queries(kept, models, settings.cache_queries), total),
    ]
    unread = {f"cache@{features}": reason for features, reason in settings.loss.unread_features.items()}
    return [(name, partial(stage_costs.nothing, unread[name]), True) if name in unread else (name, *more) for name, *more in stages]


def _model_stages(
    settings: PlanSettings, kept: int, known: bool, sets: dict[str, dict[str, int]], report: dict | None, rates: MeasuredRates
) -> Stages:
    """Returns the stages of sentences, training and evaluation. known: whether `kept`, the number of pairs, is."""
    tokens, generate = rates.tokens_per_prompt, settings.generate
    texts, ready = sentence_costs.num_sentences(settings.sentence_sources, kept if known else None)
    share = sentence_costs.kept_share(settings.sentence_sources, report)
    kept_texts = round(share * (texts or 0))
    counts = {name: _num_prompts(categories, generate.per_category) for name, categories in sets.items()}
    swept = _num_prompts(sets.get(MAIN), settings.sweep.per_category)
    strength = AdapterConfig(settings.adapter.heads, **asdict(settings.adapter)).strength
    images = stage_costs.num_images(generate, counts)
    return [
        ("sentences", lambda: sentence_costs.sentences(texts), texts is not None),
        ("cache@sentences", lambda: sentence_costs.cache_sentences(kept_texts, round(share * ready), settings, tokens), texts is not None),
        ("train", lambda: training_costs.train(kept, settings, kept_texts, tokens), True),
        ("generate", lambda: sentence_costs.generate(settings, counts, tokens), counts),
        ("sweep", lambda: stage_costs.sweep(settings.models, generate, settings.sweep, strength, swept), counts),
        ("evaluate", lambda: stage_costs.evaluate(settings.evaluate.clip, images), counts),
    ]


def _sentence_notes(settings: PlanSettings, report: dict | None) -> list[str]:
    if not settings.sentence_sources:
        return []
    share = sentence_costs.kept_share(settings.sentence_sources, report)
    return ["all sentences are assumed to be kept" if share == 1 else f"{share:.1%} of the sentences are kept, as in the last run"]


def candidates(sources: dict[str, Any], rows: int | None) -> dict[str, int | None]:
    """Returns source -> candidates, None if unknown; `rows` are distributed as params.yaml has them, or evenly where it does not say."""
    known = {name: config.num_rows() for name, config in sources.items()}
    if rows is None:
        return known
    parts = known if all(known.values()) else dict.fromkeys(known, 1)
    return {name: round(rows * part / sum(parts.values())) for name, part in parts.items()}


def surviving_rows(total: int | None, settings: PlanSettings, funnel: dict | None) -> tuple[int, int, str]:
    """Returns (images that the crawl keeps, pairs that the filter keeps, a note on where this comes from).

    The funnel counts a row for each caption; the last run is taken to have had as many of each image as the settings.
    """
    if total is None:
        return 0, 0, ""
    sentences = settings.caption.sentences
    if not funnel or set(funnel["by_source"]) != set(settings.sources):
        why = "has other sources" if funnel else "does not exist"
        return total, total * sentences, f"all rows are assumed to be kept: the funnel of an earlier run {why}"
    reasons = FILTER_REASONS | set(settings.filter)
    crawled = funnel["kept"] + sum(count for reason, count in funnel["dropped"].items() if reason in reasons)
    images = crawled / sentences
    rows = images + funnel["in"] - crawled
    crawl_share, pairs = images / rows, funnel["kept"] / rows
    note = f"the crawl keeps {crawl_share:.1%} of the rows and the filter {pairs / sentences:.1%}, as in the last run"
    note += f"; each image has {sentences} captions" if sentences > 1 else ""
    return round(total * crawl_share), round(total * pairs), note


def mean_size(
    sources: dict[str, Any], by_source: dict[str, int | None], image_bytes: float | None, measured: dict[str, float], rates: MeasuredRates
) -> tuple[float, str]:
    """Returns (mean bytes of an image, a note on where this comes from)."""
    if image_bytes:
        return image_bytes, f"an image has {image_bytes:,.0f} bytes: given"
    sizes = {}
    for name, config in sources.items():
        published = f"{name}, large" if getattr(config, "large", False) else name
        if name in measured:
            sizes[name] = measured[name], "as crawled here"
        elif published in IMAGE_BYTES:
            sizes[name] = IMAGE_BYTES[published], "as published"
        else:
            sizes[name] = rates.image_bytes, "as in the benchmark of the crawl, because this source is unknown: give --image-bytes"
    parts = {name: by_source[name] or 1 for name in sources}
    mean = sum(sizes[name][0] * part for name, part in parts.items()) / sum(parts.values())
    return mean, "an image has " + "; ".join(f"{size:,.0f} bytes in {name}, {origin}" for name, (size, origin) in sizes.items())


def _num_prompts(categories: dict[str, int] | None, per_category: int) -> int:
    return sum(min(count, per_category) for count in (categories or {}).values())


def _estimate(
    stage: str,
    make_cost: Callable[[], StageCost] | None,
    rates: MeasuredRates,
    assumptions: Assumptions,
    settings: PlanSettings,
    image_bytes: float,
) -> StageEstimate:
    if make_cost is None:
        return StageEstimate(stage, note="its number of rows is not known")
    try:
        cost = make_cost()
    except UnknownModelError as error:
        return StageEstimate(stage, note=str(error))
    size_ratio = image_bytes / rates.image_bytes  # decoding scales with bytes; fetching takes its time for small images too
    cpu = rates.seconds_per_image * cost.rows_crawled * max(1, size_ratio) + cost.rows_filtered * rates.seconds_per_row
    source, gpu = "m" if 0 < cost.rows_filtered <= rates.filtered_rows else "s", 0.0
    for kind, (flops, precision) in cost.operations.items():
        rate, source = rates.flops_per_second(kind, settings)
        cpu += flops / rate
        gpu += flops / assumptions.gpu_flops_per_second(precision)
    decoding = rates.seconds_per_image * size_ratio * cost.images_decoded
    memory = cost.rows and BASE_BYTES + cost.memory_bytes + cost.rows_filtered * rates.bytes_per_row
    gpu_seconds = gpu if cost.operations else None
    return StageEstimate(stage, cost.rows, cost.disk_bytes, cpu + decoding, gpu_seconds, memory, source, decoding, cost.note)


def _crawl_time_notes(sources: dict[str, Any], by_source: dict[str, int | None]) -> list[str]:
    """Notes how long a crawl takes at the request rate of web sources, whatever the machine."""
    rates = {name: getattr(config, "rate", None) for name, config in sources.items()}
    return [
        f"sources.{name}.rate allows {rate:g} images per second from one host: {by_source[name] / rate / 3600:,.1f} hours"
        for name, rate in rates.items()
        if rate and by_source[name]
    ]
