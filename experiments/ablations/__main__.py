"""Runs the ablations and makes their table, from the features of a finished `dvc repro`.

    python -m experiments.ablations run [ROW…] [--jobs N] [--seeds N] [--same-code]
    python -m experiments.ablations table

run    trains, generates and measures each row with each seed, the first seed of every row first, and adds the figures to results.csv and
       README.md beside this file. A finished run is skipped, so that the command can be stopped and started again. The default with the
       seed of params.yaml is the run of `dvc repro`, if that is up to date.
table  writes README.md again from results.csv
"""

import os
import signal
import sys
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from experiments.ablations.rows import ROWS, Row
from experiments.ablations.runs import CommandError, Execute, Processes, Run, Workspace
from experiments.ablations.table import Results
from experiments.ablations.teachers import write_teachers
from sur_adapter.io.code_version import code_version
from sur_adapter.io.text import did_you_mean

HERE = Path(__file__).parent
CODE = [HERE.parents[1] / f"stages/{stage}.py" for stage in ("train", "generate", "evaluate")]


def main(argv: list[str]) -> bool:
    """Returns whether all runs succeeded. Raises ValueError or FileNotFoundError, one sentence, for bad input."""
    parser = ArgumentParser("python -m experiments.ablations", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run rows, or all of them")
    run.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(ROWS))
    run.add_argument("--jobs", type=int, default=1, help="runs side by side; the cores are divided among them (default 1)")
    run.add_argument("--seeds", type=int, help="the largest number of seeds of a row")
    run.add_argument("--same-code", action="store_true", help="also repeat the runs of other versions of the code")
    commands.add_parser("table", help="write README.md again")
    args = parser.parse_args(argv)
    results = Results(HERE / "results.csv", HERE / "README.md")
    if args.command == "table":
        results.write_page()
        return True
    for name in args.rows:
        if name not in ROWS:
            raise ValueError(f"there is no row {name!r}{did_you_mean(name, ROWS)}: name some of {', '.join(ROWS)}")
    if args.jobs < 1 or (args.seeds is not None and args.seeds < 1):
        raise ValueError(f"--jobs is {args.jobs} and --seeds {args.seeds}: give at least 1")
    rows = {name: ROWS[name] for name in args.rows or ROWS}
    execute = Processes(max(1, (os.cpu_count() or 1) // args.jobs))
    return run_rows(rows, results, execute, args.jobs, args.seeds, args.same_code)


def run_rows(
    rows: dict[str, Row], results: Results, execute: Execute, jobs: int = 1, seeds: int | None = None, same_code: bool = False
) -> bool:
    """Runs all rows that have no results yet, `jobs` at a time. Returns whether all succeeded.

    Raises FileNotFoundError if there are no features, ValueError for a row with a key that params.yaml lacks.
    """
    workspace, code = Workspace(), code_version(*CODE)
    if any("+sentences.sources.file" in row.changes for row in rows.values()):
        write_teachers(workspace.params["sentences"]["sources"]["miniature"]["count"])
    runs = [Run(name, rows[name], seed, workspace) for name, seed in in_order(rows, seeds)]
    new = [run for run in runs if not results.has(run.name, run.seed, run.settings, code if same_code else None)]
    print(f"{len(runs) - len(new)} of {len(runs)} runs are finished", flush=True)
    failed = 0
    with ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(_run, run, results, execute, code): run for run in new}
        try:
            for number, future in enumerate(as_completed(started), 1):
                run, error = started[future], future.exception()
                if error and not isinstance(error, CommandError):
                    raise error
                failed += bool(error)
                text = f"failed: {error}" if error else future.result()
                print(f"[{number}/{len(new)}] {run.name}, seed {run.seed}: {text}", flush=True)
        except BaseException:
            if isinstance(execute, Processes):
                execute.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return not failed


def in_order(rows: dict[str, Row], seeds: int | None = None) -> Iterator[tuple[str, int]]:
    """Yields (row, seed), the first seed of every row before the second. seeds: the largest number of seeds of a row."""
    for seed in range(max(row.seeds for row in rows.values())):
        yield from ((name, seed) for name, row in rows.items() if seed < min(row.seeds, seeds or row.seeds))


def _run(run: Run, results: Results, execute: Execute, code: str) -> str:
    start = time.monotonic()
    metrics = run.execute(execute)
    seconds = None if run.is_of_pipeline else round(time.monotonic() - start)
    about = {"seconds": seconds, "finished": datetime.now(UTC).isoformat(timespec="seconds")}
    about |= {"params": run.workspace.all_params, "base": run.workspace.settings, "settings": run.settings, "code": code}
    gap = results.add(run.name, run.seed, metrics, about)
    return f"gap closed {gap:.2f}, " + ("of `dvc repro`" if seconds is None else f"{seconds / 60:.1f} min")


def run_command(main: Callable[[list[str]], bool]) -> NoReturn:
    """Runs `main` with the arguments of the command line and exits: with one sentence for bad input, or if it is stopped."""
    signal.signal(signal.SIGTERM, _interrupt)  # so that the processes of the runs are stopped, too
    try:
        sys.exit(0 if main(sys.argv[1:]) else 1)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped: the same command continues")


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run_command(main)
