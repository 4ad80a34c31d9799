"""Raises when BatchNorm moves in a frozen part of the model: add_guard(model), before model.train(...)

The cure: add_guard(model, freeze=True). Written by bn-audit init --guard ultralytics.
"""
from typing import Any

from core import freeze_norms, guard_norms
from ultralytics.engine.model import Model


def add_guard(model: Model, freeze: bool = False) -> None:
    """Guards from the start of training on, and checks after each epoch."""
    def start(trainer: Any) -> None:
        if freeze:
            freeze_norms(trainer.model, trainer.optimizer)
        check = guard_norms(trainer.model, trainer.optimizer)
        trainer.add_callback("on_train_epoch_end", lambda _: check())

    model.add_callback("on_train_start", start)
