"""Workers of no weight, for the tests of executors: they tell where they are and what they see, and fail or die when asked to."""

import os
from pathlib import Path

from sur_adapter.executors.base import ShardResult


class Parity:
    """7 is refused; 8 ends the process, the first time; 5 is answered with torch's threads instead of the process."""

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


class Peek:
    """The name of a file to what is in it, what lies where the worker is, and whether the folder that it may not see can be seen; a name
    that ends in `=` to a file that it makes."""

    def __init__(self, work, hidden: str):
        self.work, self.hidden = work, hidden

    def __call__(self, name: str):
        if name.endswith("="):
            self.work.set(name, b"made")
            return ShardResult.of(self.work.folder / name, 1)
        try:
            seen = bool(os.listdir(self.hidden))
        except PermissionError:
            seen = False
        return Path(name).read_text(), sorted(p.as_posix() for p in Path().rglob("*") if p.is_file()), seen, os.getcwd()
