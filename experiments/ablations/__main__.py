"""Runs the ablations as DVC experiments and makes their table.

    python -m experiments.ablations queue [ROW…]      # queues DVC experiments, the first seed of every row first
    dvc queue start -j 2                              # or: dvc exp run --run-all
    python -m experiments.ablations table             # from `dvc exp show --json`: results.csv and README.md beside this file

An experiment is named after its row and training seed, and is not queued twice. A failed experiment is left out of the table, which shows
the number of seeds. `python -m experiments.ablations commands` prints the commands and runs none.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml import YAML

from experiments.ablations.rows import ROWS
from experiments.ablations.table import collect_results, format_page
from experiments.ablations.teachers import FOLDER, write_teachers

HERE = Path(__file__).parent


def main(argv: list[str]) -> None:
    command, *names = argv or ["help"]
    if unknown := set(names) - set(ROWS):
        raise ValueError(f"there is no row {min(unknown)!r}: name some of {', '.join(ROWS)}")
    if command == "commands":
        print("\n".join(" ".join(map(_quoted, words)) for _, words in commands(names or list(ROWS))))
    elif command == "queue":
        existing = set(_experiments())
        if any(_reads_teachers(name) for name in names or ROWS):
            write_teachers(YAML(typ="safe").load(Path("params.yaml"))["sentences"]["sources"]["miniature"]["count"])
        for name, words in commands(names or list(ROWS)):
            if name not in existing:
                subprocess.run(words, check=True)
    elif command == "table":
        runs = collect_results(_experiments(), HERE / "results.csv")
        (HERE / "README.md").write_text(format_page(runs), encoding="utf-8")
    else:
        raise ValueError(__doc__)


def commands(names: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, command), seed by seed."""
    for seed in range(max(ROWS[name].seeds for name in names)):
        for name in names:
            if seed < ROWS[name].seeds:
                changes = ROWS[name].shared | ROWS[name].changes | {"train.seed": seed}
                words = [f"-S{key}={_value(value)}" for key, value in changes.items()]
                copied = ["--copy-paths", FOLDER.as_posix()] if _reads_teachers(name) else []
                yield f"{name}-s{seed}", ["dvc", "exp", "run", "--queue", "-n", f"{name}-s{seed}", *copied, *words]


def _reads_teachers(name: str) -> bool:
    return "+sentences.sources.file" in ROWS[name].changes


def _value(value) -> str:
    return json.dumps(value).replace(" ", "").replace('"', "")


def _quoted(word: str) -> str:
    return f"'{word}'" if set("[]{}*'") & set(word) else word


def _experiments() -> dict[str, dict]:
    """Returns name -> its entry in `dvc exp show`."""
    shown = json.loads(subprocess.run(["dvc", "exp", "show", "--json"], check=True, capture_output=True).stdout)
    return {e["name"]: e["revs"][0] | {"executor": e.get("executor")} for base in shown for e in base.get("experiments") or [] if e["name"]}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
