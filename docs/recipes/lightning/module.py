"""A LightningModule that is fitted and validated by the Trainer."""
# needs lightning, torch

import lightning.pytorch as lightning
import torch
from tiny_torch import make_backbone, make_batches, make_head


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        self.backbone.requires_grad_(False)
        self.head = make_head()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.head(self.backbone(images)), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("loss", torch.nn.functional.cross_entropy(self.head(self.backbone(images)), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.05)

    # PASTE def on_train_batch_start(self


callbacks = []
# PASTE (callbacks)
trainer = lightning.Trainer(
    max_epochs=2,
    callbacks=callbacks,
    val_check_interval=3,  # validates, and so changes modes, within an epoch
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
model = Classifier()
trainer.strategy.connect(model)
trainer.save_checkpoint("before.ckpt")
# PASTE (guard)
trainer.fit(model, make_batches(), make_batches(seed=4))
trainer.save_checkpoint("after.ckpt")
