"""Shards a global batch across processes so that results match a single process; starts the processes."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

LAUNCHED = "SUR_LAUNCHED"  # set for a launched process: not every launcher sets WORLD_SIZE, and the stage must not launch itself again


@dataclass(frozen=True)
class DistributedContext:
    """Process `rank` of `world_size`. Every process draws random numbers for the whole batch, from one seed, and takes its own rows."""

    rank: int = 0
    world_size: int = 1

    def shard(self, batch: Tensor) -> Tensor:
        """Returns the rows of this process, (B · world_size, …) -> (B, …)."""
        size = len(batch) // self.world_size
        return batch[self.rank * size : (self.rank + 1) * size]

    def rand(self, rows: int, generator: torch.Generator | None = None) -> Tensor:
        """Draws uniform random numbers for its rows, (B,), on the CPU."""
        return self.shard(torch.rand(rows * self.world_size, generator=generator))

    def randint(self, low: int, high: int, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws random integers from low to high − 1 for the rows of `like` (B, …): (B,)."""
        shape = (len(like) * self.world_size,)
        return self.shard(torch.randint(low, high, shape, generator=generator, device=_device(like, generator))).to(like.device)

    def randn_like(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws normal random numbers for its rows, with shape, dtype and device of `like` (B, …)."""
        shape = (len(like) * self.world_size, *like.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=like.dtype, device=_device(like, generator))
        return self.shard(noise).to(like.device)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Returns the mean over all processes, the same in each."""
        if self.world_size == 1:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.world_size


def _device(like: Tensor, generator: torch.Generator | None) -> torch.device:
    """Where random numbers are drawn: where the generator is, so that a GPU gets the numbers that a CPU gets."""
    return like.device if generator is None else generator.device


def create_accelerator(device: str, batch_size: int, **options) -> Accelerator:
    """Joins the processes that were started together, by accelerate, torchrun or alone. options: of accelerate.Accelerator.

    Raises ValueError if they cannot share the batch evenly.
    """
    accelerator = Accelerator(cpu=torch.device(device).type == "cpu", mixed_precision="no", **options)
    if batch_size % accelerator.num_processes:
        raise ValueError(
            f"train.batch_size is {batch_size}, which {accelerator.num_processes} processes cannot share evenly: make it a multiple of them"
        )
    return accelerator


def launch_command(launch: str | None, processes: int | str, path: str | None = None) -> list[str]:
    """Builds the command that starts the processes, up to the module that each runs; empty if one process is enough.

    launch: a launcher with its options, e.g. "accelerate launch --multi_gpu --num_processes 4"; None: torchrun on this machine with
    `processes` processes (auto: one for each GPU). path: where programs are searched. Raises ValueError if it is no command.
    """
    if launch is None:
        count = max(1, torch.cuda.device_count()) if processes == "auto" else processes
        return [] if count == 1 else [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command = shlex.split(launch) if launch.count('"') % 2 == launch.count("'") % 2 == 0 else []
    if not command or not shutil.which(command[0], path=path):
        raise ValueError(f"params.yaml: train.launch is {launch!r}, which is not a command here: name a launcher such as torchrun, or null")
    if processes != 1:
        raise ValueError(f"params.yaml: train.launch is {launch!r} and train.processes {processes!r}: only one of them may set the number")
    return command


def run_launched(launch: str | None, processes: int | str, module: list[str]) -> bool:
    """Runs `python -m MODULE …` under the launcher and waits; False if no launcher is needed, or if this process was itself launched."""
    if "WORLD_SIZE" in os.environ or LAUNCHED in os.environ:
        return False
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # this environment's launchers first
    command = launch_command(launch, processes, path)
    if not command:
        return False
    if subprocess.run([*command, "-m", *module], env=os.environ | {"PATH": path, LAUNCHED: "1"}).returncode:
        raise ValueError("a training process failed: see its output above")
    return True
