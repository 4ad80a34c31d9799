"""Fails when two steps of training move BatchNorm in a frozen part of the model.

Give it your training as a fixture, in conftest.py: training() returns (model, optimizer, a function that does a step).
The cure: freeze_norms(model, optimizer). Written by bn-audit init --guard pytest.
"""
from typing import Callable

from core import guard_norms
from torch import nn, optim


def test_frozen_norms_stand_still(training: tuple[nn.Module, optim.Optimizer, Callable[[], object]]) -> None:
    model, optimizer, step = training
    check = guard_norms(model, optimizer)
    step()
    step()
    check()
