"""Pictures a second: many at a time as `generate` draws them, against one call for each.

    python -m experiments.benchmarks.generate                  # the miniature on a CPU; writes generate-cpu.json beside this file

Prompts are the miniature's, the settings those of params.yaml. The first batch, which pays for what is done but once, is not counted.
"""

import json
import time
from pathlib import Path

import torch
from ruamel.yaml import YAML

from sur_adapter.generation.prompts import read_prompts
from sur_adapter.generation.sampling import draw
from sur_adapter.models import stable_diffusion as diffusion
from sur_adapter.models.torch_utils import resolve_device

COUNT = 60  # pictures


def main() -> None:
    params = YAML(typ="safe").load(Path("params.yaml"))
    how = {name: params["generate"][name] for name in ("steps", "guidance", "batch", "precision")}
    pipe = diffusion.load_pipeline(params["models"]["diffusion"]).to(resolve_device())
    forms = {"many at a time": how, "one at a time": how | {"batch": 1}, "one at a time, fp32": how | {"batch": 1, "precision": "fp32"}}
    figures = {
        "model": params["models"]["diffusion"],
        "device": f"{pipe.device.type}, {torch.get_num_threads()} threads",
        "pictures": COUNT,
    }
    figures |= {"resolution": params["models"]["resolution"]} | how
    figures |= {name: round(measured(pipe, params, form), 2) for name, form in forms.items()}
    figures["times_faster"] = round(figures["many at a time"] / figures["one at a time, fp32"], 2)
    text = json.dumps(figures, indent=2) + "\n"
    Path(__file__).with_name(f"generate-{pipe.device.type}.json").write_text(text)
    print(text)


def measured(pipe, params: dict, form: dict) -> float:
    """Pictures a second."""
    rows = read_prompts(Path(params["generate"]["prompts"]))[:COUNT]
    texts = [row["prompt"] for row in rows]
    warm = form["batch"]
    list(draw(pipe, rows[:warm], texts[:warm], params["models"]["resolution"], seeds=1, **form))
    started = time.perf_counter()
    drawn = list(draw(pipe, rows, texts, params["models"]["resolution"], seeds=1, **form))
    return len(drawn) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
