"""Kills stages at random moments, again and again, and looks at what is left.

    python -m tests.chaos KILLS SEED              # all stages in order, each in a process that is killed
    python -m tests.chaos KILLS SEED TARGET…      # by `dvc repro TARGET…`, DVC killed too; minutes a kill where evaluate is the target

After each kill no file may lie half done under a final name, and in the end every file must be that of the run left in peace, nothing else
be left, and no lock be held.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the tests' helpers stand beside one another


def storm(home: Path, kills: int, seed: int, targets: list[str]):
    """The storm that has passed, with what it has to tell in `killed`."""
    from helpers.repository import copy

    from chaos import SMALL

    os.environ |= {"SUR_WORK": str(home / "work"), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    (folder := home / "project").mkdir()
    copy(folder, "miniature", SMALL)
    shutil.rmtree(folder / "reports")
    if targets:
        from chaos.dvc import Dvc as Storm
    else:
        from chaos.verbs import Verbs as Storm
    passing = Storm(folder, home / "work", seed, tuple(targets))
    passing.storm(kills)
    return passing


def main(kills: str, seed: str, *targets: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sur-chaos-") as home:
        killed = storm(Path(home), int(kills), int(seed), list(targets)).killed
    print(f"{killed.total()} kills ({dict(killed)}), and the outs are those of a run left in peace")


if __name__ == "__main__":
    main(*sys.argv[1:])
