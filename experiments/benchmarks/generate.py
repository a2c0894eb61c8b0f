"""Images per second: in batches, as `generate` does, against one pipeline call per image.

    python -m experiments.benchmarks.generate                  # the miniature on a CPU; writes generate-cpu.json beside this file

Prompts are the miniature's, settings those of params.yaml. The first batch, which includes one-time costs, is not counted.
"""

import json
import time
from pathlib import Path

import torch
from ruamel.yaml import YAML

from sur_adapter.generation.prompts import read_prompts
from sur_adapter.generation.sampling import GenerateConfig, generate_images, image_jobs
from sur_adapter.models import stable_diffusion as diffusion
from sur_adapter.models.torch_utils import resolve_device

COUNT = 60  # images


def main() -> None:
    params = YAML(typ="safe").load(Path("params.yaml"))
    names = ("num_inference_steps", "guidance_scale", "batch_size", "precision")
    settings = {name: params["generate"][name] for name in names}
    pipe = diffusion.load_pipeline(params["models"]["diffusion"], params["generate"].get("scheduler")).to(resolve_device())
    one = settings | {"batch_size": 1}
    forms = {"many at a time": settings, "one at a time": one, "one at a time, fp32": one | {"precision": "fp32"}}
    figures = {
        "model": params["models"]["diffusion"],
        "device": f"{pipe.device.type}, {torch.get_num_threads()} threads",
        "pictures": COUNT,
    }
    figures |= {"resolution": params["models"]["resolution"]} | settings
    figures |= {name: round(images_per_second(pipe, params, form), 2) for name, form in forms.items()}
    figures["times_faster"] = round(figures["many at a time"] / figures["one at a time, fp32"], 2)
    text = json.dumps(figures, indent=2) + "\n"
    Path(__file__).with_name(f"generate-{pipe.device.type}.json").write_text(text)
    print(text)


def images_per_second(pipe, params: dict, settings: dict) -> float:
    rows = read_prompts(Path(params["generate"]["prompts"]))[:COUNT]
    texts = [row["prompt"] for row in rows]
    config, resolution = GenerateConfig(per_category=COUNT, seeds=1, **settings), params["models"]["resolution"]
    jobs = image_jobs(rows, texts, seeds=1)
    list(generate_images(pipe, jobs[: config.batch_size], resolution, config))
    started = time.perf_counter()
    images = list(generate_images(pipe, jobs, resolution, config))
    return len(images) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
