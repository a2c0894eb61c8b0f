"""What machines were measured to do: the figures of experiments/benchmarks, as rates in operations a second.

Each benchmark tells how many of something a second; what one of them takes in operations is counted on the model that it names.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sur_adapter.io.shards import read_tar
from sur_adapter.tools.planner import stage_costs as works

FILES = {
    "caption": "caption-cpu",
    "crawl": "crawl",
    "filter": "filter",
    "generate": "generate-cpu",
    "llm": "llm-small",
    "train": "train-cpu",
}
LARGE = "attach-cpu"  # one step of a U-Net of Stable Diffusion 1.5's size

LIKE = {"words": "captions", "pictures": "drawing"}  # of the same make, where nothing of their own was measured


@dataclass
class Rates:
    figures: dict[str, dict]  # benchmark -> what its file says

    @classmethod
    def read(cls, folder: Path) -> "Rates":
        """FileNotFoundError for a benchmark that was not run."""
        found = {}
        for name, file in (FILES | {"large": LARGE}).items():
            if not (folder / f"{file}.json").exists():
                raise FileNotFoundError(
                    f"{folder / file}.json is missing: a plan goes by it; run `python -m experiments.benchmarks.{name}`"
                )
            found[name] = json.loads((folder / f"{file}.json").read_text())
        return cls(found)

    @property
    def tokens(self) -> float:
        """Of a plain sentence, for the LLM."""
        return self.figures["llm"]["tokens_a_prompt"]

    @property
    def picture(self) -> float:
        """Bytes of the pictures whose crawl was measured."""
        return self.figures["crawl"]["bytes_per_picture"]

    @property
    def picture_seconds(self) -> float:
        """Of a core, to fetch such a picture and decode it; of the longest crawl."""
        return self.figures["crawl"]["runs"][-1]["cpu_ms_per_picture"] / 1000

    @property
    def rows(self) -> int:
        """That were filtered when it was timed."""
        return self.figures["filter"]["rows"]

    @property
    def row_seconds(self) -> float:
        """To filter a row, near-equal prompts tied."""
        return self.figures["filter"]["near"]["cpu_seconds"] / self.rows

    @property
    def row_bytes(self) -> float:
        return self.figures["filter"]["near"]["most_memory_GB"] * 1e9 / self.rows

    def of(self, kind: str, params: dict) -> tuple[float, str]:
        """(operations a second, `m` if this very work was measured and `s` if other models or other work were) of a kind of work.

        kind: captions, llm, drawing, training, or one of LIKE.
        """
        rate, same = getattr(self, f"_{LIKE.get(kind, kind)}")(params)
        return rate, "m" if same and kind not in LIKE else "s"

    def _captions(self, params: dict) -> tuple[float, bool]:
        return self._said, params["caption"]["model"] == self.figures["caption"]["model"]

    @cached_property
    def _said(self) -> float:
        found = self.figures["caption"]
        return found["captions_per_second_batch_100"] * works.sentence(found["model"], 1).operations

    def _llm(self, params: dict) -> tuple[float, bool]:
        found = self.figures["llm"]
        return found["share_of_matmul"] * found["matmul_teraflops"] * 1e12, self._small(params)

    def _drawing(self, params: dict) -> tuple[float, bool]:
        if self._small(params):
            return self._drawn, True
        step = self.figures["large"]["step"]
        return 2 * step["gigaflop"] * 1e9 / step["seconds"], False  # of one core, where the others are of two

    @cached_property
    def _drawn(self) -> float:
        found = self.figures["generate"]
        how = {name: found[name] for name in ("steps", "guidance", "batch")}
        each, _ = works.picture({"models": {"diffusion": found["model"], "resolution": found["resolution"]}, "generate": how})
        return found["many at a time"] * each

    def _training(self, params: dict) -> tuple[float, bool]:
        form = self.figures["train"]["forms"]["all terms" if params["loss"]["w_diffusion"] else "words alone"]
        return form["samples_per_second"] * form["teraflop_per_sample"] * 1e12, self._small(params)

    def _small(self, params: dict) -> bool:
        """Whether the models are those whose folder was measured; its LLM lies beside its diffusion model."""
        measured = Path(self.figures["generate"]["model"])
        return Path(params["models"]["diffusion"]) == measured and Path(params["models"]["llm"]).parent == measured.parent


def mean_size(folder: Path) -> float | None:
    """Bytes of a picture in the first shard that a crawl left in a folder; None where there is none."""
    shards = sorted(folder.glob("images-*.tar"))
    sizes = [len(data) for _, _, data in read_tar(shards[0])] if shards else []
    return sum(sizes) / len(sizes) if sizes else None
