"""What one of several processes does of a batch, so that all of them together do what one would; and how they are started."""

import shlex
import shutil
import sys
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor


@dataclass
class DistributedContext:
    """Process `rank` of `count`. Every process draws for the whole batch, from one seed, and takes its own rows."""

    rank: int = 0
    count: int = 1

    def __call__(self, atomic_write: Tensor) -> Tensor:
        """Its rows, [B · count, …] -> [B, …]."""
        each = len(atomic_write) // self.count
        return atomic_write[self.rank * each : (self.rank + 1) * each]

    def normal(self, like: Tensor) -> Tensor:
        """Normal noise for its rows, of the shape, kind and place of `like` [B, …]."""
        return self(torch.randn(len(like) * self.count, *like.shape[1:], dtype=like.dtype, device=like.device))

    def mean(self, value: Tensor) -> Tensor:
        """Over all processes, the same in each."""
        if self.count == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.count


def team(device: str, batch: int) -> tuple[Accelerator, DistributedContext]:
    """The processes that were started together (by accelerate, torchrun or alone), and this one's share of a batch.

    Raises ValueError if they cannot share the batch evenly.
    """
    crew = Accelerator(cpu=torch.device(device).type == "cpu", mixed_precision="no")
    if batch % crew.num_processes:
        raise ValueError(f"train.batch is {batch}, which {crew.num_processes} processes cannot share evenly: make it a multiple of them")
    return crew, DistributedContext(crew.process_index, crew.num_processes)


def launcher(launch: str | None, processes: int | str, path: str | None = None) -> list[str]:
    """The command that starts the processes, up to the module that each runs; empty where this one is enough.

    launch: such a command, e.g. "accelerate launch --multi_gpu --num_processes 4"; None: torchrun on this machine, for so many `processes`
    (auto: one for each GPU). path: where programs are looked for. Raises ValueError for what is none of these.
    """
    if launch is None:
        count = max(1, torch.cuda.device_count()) if processes == "auto" else processes
        return [] if count == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    words = shlex.split(launch) if isinstance(launch, str) and launch.count('"') % 2 == launch.count("'") % 2 == 0 else []
    if not words or not shutil.which(words[0], path=path):
        raise ValueError(
            f"params.yaml: train.launch is {launch!r}, which is no command here: name a launcher as torchrun or accelerate launch, or null"
        )
    if processes != 1:
        raise ValueError(f"params.yaml: train.launch is {launch!r} and train.processes {processes!r}: only one of them may say how many")
    return words
