"""The optimisers that stages can train with: SGD as the paper, and AdamW."""

from __future__ import annotations

import torch
from torch import nn

RATES = {"sgd": 0.05, "adamw": 2e-3}
"""Learning rates that ANet learns well with."""
DECAYS = {"sgd": 5e-4, "adamw": 0.05}


def sgd(model: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with momentum 0.9; biases and normalisation are not decayed."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)


def make_optimizer(
    name: str, model: nn.Module, learning_rate: float | None = None, weight_decay: float | None = None
) -> torch.optim.Optimizer:
    """The optimiser "sgd" or "adamw" of the model's parameters, with RATES and DECAYS where nothing else is said."""
    learning_rate = RATES[name] if learning_rate is None else learning_rate
    weight_decay = DECAYS[name] if weight_decay is None else weight_decay
    if name == "sgd":
        return sgd(model, learning_rate, weight_decay)
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
