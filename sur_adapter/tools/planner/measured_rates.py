"""Measured speeds of a machine: the figures of experiments/benchmarks, as operations per second.

Each benchmark reports how many items per second; the operations of one item are counted on the model that the benchmark names.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sur_adapter.generation.sampling import GenerateConfig
from sur_adapter.io.shards import read_tar
from sur_adapter.models.config import ModelsConfig
from sur_adapter.tools.planner.settings import PlanSettings
from sur_adapter.tools.planner.stage_costs import caption_cost, image_cost

FILES = {
    "caption": "caption-cpu",
    "crawl": "crawl",
    "filter": "filter",
    "generate": "generate-cpu",
    "llm": "llm-small",
    "train": "train-cpu",
    "large": "attach-cpu",  # one step of a U-Net of Stable Diffusion 1.5's size
}
SAME_RATE = {"answers": "llm", "images": "generation"}  # similar work, where nothing of its own was measured


@dataclass
class MeasuredRates:
    figures: dict[str, dict]  # benchmark -> content of its file

    @classmethod
    def read(cls, folder: Path) -> "MeasuredRates":
        """Raises FileNotFoundError for a benchmark that was not run."""
        figures = {}
        for name, file in FILES.items():
            if not (folder / f"{file}.json").exists():
                module = "attach" if name == "large" else name
                raise FileNotFoundError(
                    f"{folder / file}.json is missing, and plan needs it: run `python -m experiments.benchmarks.{module}`"
                )
            figures[name] = json.loads((folder / f"{file}.json").read_text())
        return cls(figures)

    @property
    def tokens_per_prompt(self) -> float:
        """LLM tokens of a plain sentence."""
        return self.figures["llm"]["tokens_a_prompt"]

    @property
    def image_bytes(self) -> float:
        """Size of the images whose crawl was measured."""
        return self.figures["crawl"]["bytes_per_picture"]

    @property
    def seconds_per_image(self) -> float:
        """CPU seconds to fetch and decode such an image, in the longest crawl."""
        return self.figures["crawl"]["runs"][-1]["cpu_ms_per_picture"] / 1000

    @property
    def filtered_rows(self) -> int:
        return self.figures["filter"]["rows"]

    @property
    def seconds_per_row(self) -> float:
        """CPU seconds to filter a row, with near-equal prompts grouped."""
        return self.figures["filter"]["near"]["cpu_seconds"] / self.filtered_rows

    @property
    def bytes_per_row(self) -> float:
        """Memory to filter a row."""
        return self.figures["filter"]["near"]["most_memory_GB"] * 1e9 / self.filtered_rows

    def flops_per_second(self, kind: str, settings: PlanSettings) -> tuple[float, str]:
        """(rate, `m` if this work was measured with these models, `s` if it is scaled from other work or models).

        kind: captions, encoding, llm, generation, training, or a key of SAME_RATE.
        """
        rates = {"captions": self._captions, "encoding": self._encoding, "llm": self._llm}
        rates |= {"generation": self._generation, "training": self._training}
        rate, same = rates[SAME_RATE.get(kind, kind)](settings)
        return rate, "m" if same and kind not in SAME_RATE else "s"

    def _captions(self, settings: PlanSettings) -> tuple[float, bool]:
        return self._caption_rate, settings.caption.model == self.figures["caption"]["model"]

    @cached_property
    def _caption_rate(self) -> float:
        figures = self.figures["caption"]
        captions = figures["captions_per_picture"]  # share the image's features, and take more time than their operations say
        return figures["captions_per_second_batch_100"] / captions * caption_cost(figures["model"], 1, captions).flops

    def _encoding(self, settings: PlanSettings) -> tuple[float, bool]:
        """That of images with one caption each, which is mostly the encoder of images."""
        figures = self.figures["caption"]
        return figures["pictures_per_second_batch_100_one_caption"] * caption_cost(figures["model"], 1).flops, False

    def _llm(self, settings: PlanSettings) -> tuple[float, bool]:
        figures = self.figures["llm"]
        return figures["share_of_matmul"] * figures["matmul_teraflops"] * 1e12, self._is_measured(settings.models)

    def _generation(self, settings: PlanSettings) -> tuple[float, bool]:
        if self._is_measured(settings.models):
            return self._generation_rate, True
        step = self.figures["large"]["step"]
        return 2 * step["gigaflop"] * 1e9 / step["seconds"], False  # of one core, where the others are of two

    @cached_property
    def _generation_rate(self) -> float:
        figures = self.figures["generate"]
        options = {name: figures[name] for name in ("num_inference_steps", "guidance_scale", "batch_size")}
        config = GenerateConfig(per_category=1, seeds=1, **options)
        flops, _ = image_cost(ModelsConfig(figures["model"], figures["resolution"]), config)
        return figures["many at a time"] * flops

    def _training(self, settings: PlanSettings) -> tuple[float, bool]:
        form = self.figures["train"]["forms"]["all terms" if settings.loss.w_diffusion else "words alone"]
        return form["samples_per_second"] * form["teraflop_per_sample"] * 1e12, self._is_measured(settings.models)

    def _is_measured(self, models: ModelsConfig) -> bool:
        """Returns whether the benchmarks used these models; the measured LLM is in the same folder as its diffusion model."""
        measured = Path(self.figures["generate"]["model"])
        return Path(models.diffusion) == measured and models.llm is not None and Path(models.llm).parent == measured.parent


def mean_image_bytes(folder: Path) -> float | None:
    """Returns the mean size of the images in the first shard of a crawled source; None if there is no shard."""
    shards = sorted(folder.glob("images-*.tar"))
    sizes = [len(data) for _, _, data in read_tar(shards[0])] if shards else []
    return sum(sizes) / len(sizes) if sizes else None
