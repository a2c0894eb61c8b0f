"""What is measured for every image: image statistics, a judge's verdict, CLIP embeddings, and the metrics that params.yaml names."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from types import ModuleType

from sur_adapter.config import from_dict
from sur_adapter.evaluation import image_quality
from sur_adapter.evaluation.judges import Judge
from sur_adapter.evaluation.measurement_cache import MeasurementCache
from sur_adapter.evaluation.metrics import ImageMetric, SetMetric
from sur_adapter.models import clip as clip_module
from sur_adapter.models.clip import CLIPEncoder
from sur_adapter.registry import load

JUDGES, METRICS = "sur_adapter.evaluation.judges", "sur_adapter.evaluation.metrics"
Names = str | Sequence[str] | Mapping[str, Mapping | None] | None  # plug-ins by name, or by name with their settings


class Measurements:
    """Measurements of params.yaml: evaluate, each behind its cache.

    judge: a file of evaluation/judges, metrics: files of evaluation/metrics, by name or by name with settings; clip: a CLIP model, by
    folder or hub id. Each may be None. Raises ValueError for unknown names and settings, FileNotFoundError for a missing CLIP.

    caches: name -> measurement of every image: "statistics", "judge", "clip", and `metrics`.
    findings: FINDINGS of the judge. metrics: names of those metrics that give a number for each image. set_metrics: name -> metrics that
    compare sets of images.
    """

    def __init__(self, judge: Names = None, clip: str | None = None, metrics: Names = None):
        judges = _load_all(JUDGES, judge, "evaluate.judge")
        if len(judges) > 1:
            raise ValueError(f"params.yaml: evaluate.judge names {' and '.join(judges)}: choose one")
        loaded = _load_all(METRICS, metrics, "evaluate.metrics")
        self.set_metrics: dict[str, SetMetric] = {name: module for name, (module, _) in loaded.items() if hasattr(module, "compare")}
        self.metrics = [name for name in loaded if name not in self.set_metrics]
        self.judge, self.clip = next(iter(judges), None), CLIPEncoder(clip, "evaluate.clip") if clip else None
        statistics = MeasurementCache("statistics", lambda images, _: image_quality.image_statistics(images), image_quality.__file__)
        self.caches = {"statistics": statistics}
        self.findings: dict[str, tuple[str, ...]] = getattr(judges[self.judge][0], "FINDINGS", {}) if self.judge else {}
        if self.judge:
            self.caches["judge"] = _judge_cache(self.judge, *judges[self.judge])
        if self.clip:
            encode = self.clip.encode_images
            self.caches["clip"] = MeasurementCache("clip", lambda images, _: encode(images), clip_module.__file__, {"model": clip})
        self.caches |= {name: _metric_cache(name, *loaded[name]) for name in self.metrics}


def _load_all(package: str, names: Names, key: str) -> dict[str, tuple[ModuleType, object]]:
    """Loads plug-ins. Returns name -> (module, its checked `Config`)."""
    if not isinstance(names, Mapping):
        names = dict.fromkeys([names] if isinstance(names, str) else names or [])
    modules = {name: load(package, name) for name in names}
    return {name: (modules[name], from_dict(modules[name].Config, names[name], f"{key}.{name}")) for name in names}


def _judge_cache(name: str, judge: Judge, config) -> MeasurementCache:
    return MeasurementCache(name, partial(judge.verdicts, config=config), judge.__file__, asdict(config), reads_prompts=True)


def _metric_cache(name: str, metric: ImageMetric, config) -> MeasurementCache:
    return MeasurementCache(name, partial(metric.measure, config=config), metric.__file__, asdict(config), metric.READS_PROMPTS)
