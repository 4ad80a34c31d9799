"""Raises when BatchNorm moves in a frozen part of the model: Trainer(callbacks=[NormGuard()])

The cure, once and before fit(): freeze_norms(model). Written by bn-audit init --guard lightning.
"""
from core import guard_norms
from lightning.pytorch import Callback, LightningModule, Trainer


class NormGuard(Callback):
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check = guard_norms(pl_module, *trainer.optimizers)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.check()
