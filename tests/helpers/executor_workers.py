"""Small workers for the tests of executors: they report their process and visible files, and fail or exit for certain inputs."""

import os
from pathlib import Path

from sur_adapter.executors.base import ShardResult


class Parity:
    """Returns (number, process id). 7 raises; 8 ends the process, the first time; 5 returns torch's threads instead of the process id."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __call__(self, number: int) -> tuple[int, int]:
        if number == 7:
            raise FileNotFoundError("seven is odd: give an even number")
        if number == 8 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os._exit(9)
        if number == 5:
            import torch

            return number, torch.get_num_threads()
        return number, os.getpid()


class ProgressBar:
    """Returns, for any task, whether the bars of tqdm and of a library are hidden in this process."""

    def __call__(self, task) -> tuple[bool, bool]:
        from tqdm import tqdm
        from tqdm.auto import tqdm as auto

        return tqdm([]).disable, auto([]).disable


class Peek:
    """Returns (text of the file `name`, files where the worker is, whether the folder `hidden` can be listed, working directory).

    A name that ends in `=` writes a file of that name into the work cache instead.
    """

    def __init__(self, work, hidden: str):
        self.work, self.hidden = work, hidden

    def __call__(self, name: str):
        if name.endswith("="):
            self.work.set(name, b"made")
            return ShardResult.of(self.work.folder / name, 1)
        try:
            visible = bool(os.listdir(self.hidden))
        except PermissionError:
            visible = False
        return Path(name).read_text(), sorted(p.as_posix() for p in Path().rglob("*") if p.is_file()), visible, os.getcwd()
