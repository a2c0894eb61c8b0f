"""A worker of no weight, for the tests of engines: it tells where it is, and fails or dies when asked to."""

import os
from pathlib import Path


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
