"""Raises when BatchNorm moves in a frozen part of the model: Trainer(callbacks=[NormGuard()])

The cure, once and before train(): freeze_norms(model). Written by bn-audit init --guard transformers.
"""
from typing import Any

from core import guard_norms
from transformers import TrainerCallback


class NormGuard(TrainerCallback):
    def on_train_begin(self, *_: Any, **state: Any) -> None:
        # accelerate wraps optimizers, and wrappers have no hooks
        optimizer = getattr(state["optimizer"], "optimizer", state["optimizer"])
        self.check = guard_norms(state["model"], optimizer)

    def on_epoch_end(self, *_: Any, **state: Any) -> None:
        self.check()
