"""Raises in the step that moves BatchNorm in a frozen part of the model: with guarding(model, optimizer): train()

The cure, once and before training: freeze_norms(model, optimizer). Written by bn-audit init --guard pytorch.
"""
from collections.abc import Iterator
from contextlib import contextmanager

from core import PARTS, guard_norms
from torch import nn, optim


@contextmanager
def guarding(model: nn.Module, *optimizers: optim.Optimizer, parts: tuple[str, ...] = PARTS) -> Iterator[None]:
    """Guards what runs inside, to its end."""
    check = guard_norms(model, *optimizers, parts=parts)
    yield
    check()
