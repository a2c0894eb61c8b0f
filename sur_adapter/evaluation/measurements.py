"""Who is asked about every picture: a judge, a CLIP, measures, by the names that params.yaml gives them."""

from functools import partial
from types import ModuleType

from sur_adapter.config import settings
from sur_adapter.evaluation import image_quality as quality
from sur_adapter.evaluation.measurement_cache import MeasurementCache
from sur_adapter.models import clip as clip_score
from sur_adapter.models.clip import Clip
from sur_adapter.registry import load


class Measurements:
    """judge, measures: files of sur_adapter/evaluation/judges and sur_adapter/evaluation/metrics, by name or by name with settings; clip: a model. Each may
    be null.

    each: name -> what is asked of every picture: "classical", "judge", "counted", "clip", and `measures`, those that give a number for
    each picture. sets: name -> the modules that compare whole sets of pictures. Raises ValueError for what is unknown.
    """

    def __init__(self, judge: str | dict | None = None, clip: str | None = None, measures: list | dict | None = None):
        judges = _chosen("sur_adapter.evaluation.judges", judge, "evaluate.judge", "verdicts")
        if len(judges) > 1:
            raise ValueError(f"params.yaml: evaluate.judge names {' and '.join(judges)}: choose one")
        found = _chosen("sur_adapter.evaluation.metrics", measures, "evaluate.measures", "measure")
        self.sets = {name: module for name, (module, ask) in found.items() if ask is None}
        self.measures = [name for name in found if name not in self.sets]
        self.judge, self.clip = next(iter(judges), None), Clip(clip, "evaluate.clip") if clip else None
        self.each = {"classical": MeasurementCache("classical", quality.classical, quality.__file__)}
        if self.judge:
            self.each["judge"] = _kept(self.judge, *judges[self.judge])
            if counts := getattr(judges[self.judge][0], "counts", None):
                self.each["counted"] = MeasurementCache(f"{self.judge}-counts", counts, judges[self.judge][0].__file__)
        if self.clip:
            self.each["clip"] = MeasurementCache("clip", self.clip.images, clip_score.__file__, model=clip)
        self.each |= {name: _kept(name, *found[name]) for name in self.measures}


def _chosen(package: str, names: str | list | dict | None, section: str, function: str) -> dict[str, tuple]:
    """name -> (module, its function with the settings given; None where it has no such function)."""
    rows = names.items() if isinstance(names, dict) else [(name, None) for name in ([names] if isinstance(names, str) else names or [])]
    found = {}
    for name, values in rows:
        module = load(package, name)
        ask = getattr(module, function, None)
        values = settings(ask or (lambda: None), values, f"{section}.{name}")
        found[name] = module, partial(ask, **values) if ask else None
    return found


def _kept(name: str, module: ModuleType, ask: partial) -> MeasurementCache:
    return MeasurementCache(name, ask, module.__file__, **ask.keywords)
