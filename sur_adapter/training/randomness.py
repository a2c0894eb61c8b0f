"""One random generator per training step, so that a step does not depend on the steps before it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

TEXT, DECODER = 2**48, 2**49  # streams, apart from all seeds of pairs


def step_generator(seed: int, step: int, stream: int = 0) -> torch.Generator:
    """Creates the generator of a step: the rows of its batch are drawn from it first, then all random numbers of the objective.

    It is on the CPU also for a training on a GPU, so that both draw the same numbers. stream: 0 for the pairs; TEXT for the text rows, so
    that the pairs draw the same numbers with text rows and without.
    """
    return torch.Generator().manual_seed(stream + seed * 1_000_003 + step)


@contextmanager
def default_generators(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Lets layers that can draw only from torch's default generators, as dropout does, draw from `generator`. None: changes nothing.

    On a CPU the default generator continues the sequence of `generator`, which then continues after it; a GPU's is seeded from it. At the
    end of the block the default generators are as they were before.
    """
    if generator is None:
        yield
        return
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        torch.default_generator.set_state(generator.get_state())
        yield
        generator.set_state(torch.default_generator.get_state())
