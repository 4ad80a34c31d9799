"""Lightning's StochasticWeightAveraging: it resets and estimates again the statistics of every norm layer."""
# needs lightning, torch

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from tiny_torch import make_backbone, make_batches, make_head


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        # PASTE (backbone)
        self.backbone.requires_grad_(False)
        self.head = make_head()

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.head(self.backbone(images)), labels)

    def configure_optimizers(self):
        return torch.optim.SGD(self.head.parameters(), lr=0.05)

    # PASTE (hook)


trainer = lightning.Trainer(
    max_epochs=2,
    callbacks=[StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)],
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
model = Classifier()
trainer.strategy.connect(model)
trainer.save_checkpoint("before.ckpt")
trainer.fit(model, make_batches())
trainer.save_checkpoint("after.ckpt")
