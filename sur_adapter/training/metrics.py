"""Metrics of training steps."""

from math import isfinite

import torch
from torch import Tensor

from sur_adapter.training.distributed import DistributedContext


def mean_metrics(step_metrics: list[dict[str, Tensor]], context: DistributedContext, step: int) -> dict[str, float]:
    """Averages each metric over the given steps and all processes. Raises ValueError if the loss is not finite."""
    columns = {key: context.all_reduce_mean(torch.stack([row[key].float() for row in step_metrics])).tolist() for key in step_metrics[0]}
    means = {key: sum(column) / len(column) for key, column in columns.items()}
    if not isfinite(means["loss"]):
        raise ValueError(f"the loss is {means['loss']} before step {step}: lower train.lr, or set train.precision to fp32")
    return means
