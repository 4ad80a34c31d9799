"""Raises when BatchNorm moves in a frozen part of the model: custom_hooks = [dict(type="NormGuard")]

The cure, before training: freeze_norms(runner.model). Written by bn-audit init --guard mmengine.
"""
from typing import Any

from core import guard_norms
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class NormGuard(Hook):
    def before_train(self, runner: Any) -> None:
        wrappers = getattr(runner.optim_wrapper, "optim_wrappers", {"": runner.optim_wrapper})
        self.check = guard_norms(runner.model, *(wrapper.optimizer for wrapper in wrappers.values()))

    def after_train_epoch(self, runner: Any) -> None:
        self.check()
