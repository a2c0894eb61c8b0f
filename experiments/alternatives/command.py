"""Runs one stage, or the training of a LoRA, and records what it took beside its params.yaml ($SUR_PARAMS).

    python -m experiments.alternatives.command train --clip … --out …       # the words of `python -m stages`
    python -m experiments.alternatives.command lora --pairs … --out …

`<word>-usage.json` has wall and CPU seconds of the process, the peak of its memory, and with a GPU the peak of the memory that torch used
there. Unfinished work of a training is kept in the same folder, not in the work cache: a training that was killed starts over, so that its
seconds are those of the whole.
"""

import json
import os
import sys
from pathlib import Path

from sur_adapter.io.atomic import atomic_write_text
from sur_adapter.tools.timing import usage

TRAININGS = ("train", "lora")


def main(words: list[str]) -> None:
    """Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    folder = Path(os.environ["SUR_PARAMS"]).parent
    if words[0] in TRAININGS:
        os.environ["SUR_WORK"] = str(folder / "work")
    if words[0] == "lora":
        from experiments.alternatives.lora import main as run

        run(words[1:])
    else:
        from stages.__main__ import main as run

        run(words)
    atomic_write_text(folder / f"{words[0]}-usage.json", json.dumps(usage() | _gpu_usage(), indent=1) + "\n")


def _gpu_usage() -> dict[str, int]:
    torch = sys.modules.get("torch")
    if not (torch and torch.cuda.is_initialized()):
        return {}
    return {"peak_gpu_mb": round(torch.cuda.max_memory_allocated() / 1e6)}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
