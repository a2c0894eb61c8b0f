"""Kills stages repeatedly at random moments and checks the files.

    python -m tests.chaos KILLS SEED              # all stages in order, each in a process that is killed
    python -m tests.chaos KILLS SEED TARGET…      # by `dvc repro TARGET…`, DVC killed too; minutes per kill if evaluate is the target

After each kill, no file under a final name is partial. In the end, all files equal those of an undisturbed run, no other file is left,
and no lock is held.
"""

import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `helpers` and `chaos`


def run_and_kill(home: Path, kills: int, seed: int, targets: list[str]) -> Counter:
    """Runs the project with kills and returns the number of kills by kind."""
    from helpers.repository import copy

    from chaos import SMALL

    os.environ |= {"SUR_WORK": str(home / "work"), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    (folder := home / "project").mkdir()
    copy(folder, "miniature", SMALL)
    shutil.rmtree(folder / "reports")
    if targets:
        from chaos.dvc_killer import DvcKiller

        killer = DvcKiller(folder, home / "work", seed, tuple(targets))
    else:
        from chaos.stage_killer import StageKiller

        killer = StageKiller(folder, home / "work", seed)
    killer.run(kills)
    return killer.killed


def main(kills: str, seed: str, *targets: str) -> None:
    with tempfile.TemporaryDirectory(prefix="sur-chaos-") as home:
        killed = run_and_kill(Path(home), int(kills), int(seed), list(targets))
    print(f"{killed.total()} kills ({dict(killed)}), and the outs are those of an undisturbed run")


if __name__ == "__main__":
    main(*sys.argv[1:])
