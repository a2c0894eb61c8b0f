"""Computes groups of prompts side by side on a CPU, each in a thread with a graph of its own.

A step of a small network is hundreds of short operations. Threads that share each of them wait for each other hundreds of times, and on a
busy machine for a thread that is not running. Here one thread computes a group from its first operation to its gradients. The gradients of
the groups are added in their order, so the weights have the same bytes for any number of threads up to twice as many as groups; from there
on, several threads share a group.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

MapGroups = Callable[[Callable[[int], tuple], int], list[tuple]]  # (function of a group's number, number of groups) -> its results


def in_turn(function: Callable[[int], tuple], count: int) -> list[tuple]:
    """Computes the groups one after the other, in one graph."""
    return [function(number) for number in range(count)]


class GroupThreads:
    """Maps functions over groups of prompts, each computed in a thread of its own. The gradients go to the parameters that are given.

    num_threads: of all groups together. num_groups: how many there are. context: makes what a thread enters to compute, as autocast, which
    torch keeps for each thread.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], num_threads: int, num_groups: int, context: Callable[[], AbstractContextManager]
    ):
        self.parameters, self.context = [p for p in parameters if p.requires_grad], context
        threads_of_group = max(1, num_threads // num_groups)
        self.pool = ThreadPoolExecutor(num_threads // threads_of_group, "group", lambda: torch.set_num_threads(threads_of_group))
        self.graphs: list[tuple[list[Tensor], list[Tensor]]] = []  # of each group: outputs, and their copies outside of its graph

    def map(self, function: Callable[[int], tuple], count: int) -> list[tuple]:
        """Returns the results of all groups, tuples; their tensors with a gradient are cut from the graph until `backward`."""

        def compute(number: int) -> tuple:
            with self.context():
                return function(number)

        results = []
        for values in self.pool.map(compute, range(count)):
            outputs = [value for value in values if _has_graph(value)]
            copies = [value.detach().requires_grad_() for value in outputs]
            self.graphs.append((outputs, copies))
            given = iter(copies)
            results.append(tuple(next(given) if _has_graph(value) else value for value in values))
        return results

    def backward(self) -> None:
        """Adds the gradients of all groups that were mapped since the last call, after the loss of their results had its backward pass."""
        for gradients in self.pool.map(self._gradients, self.graphs):
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.graphs = []

    def _gradients(self, graph: tuple[list[Tensor], list[Tensor]]) -> Sequence[Tensor | None]:
        used = [(output, copy.grad) for output, copy in zip(*graph, strict=True) if copy.grad is not None]
        if not used:
            return [None] * len(self.parameters)
        outputs, gradients = zip(*used, strict=True)
        return torch.autograd.grad(outputs, self.parameters, gradients, allow_unused=True)

    def run(self, functions: list[Callable[[], Any]]) -> None:
        """Runs functions that change different things, as the steps of several optimizers."""
        for _ in self.pool.map(lambda function: function(), functions):
            pass

    def close(self) -> None:
        self.pool.shutdown()


def _has_graph(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
