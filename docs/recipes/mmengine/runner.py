"""mmengine's Runner, validating after each epoch."""
# needs mmengine, torch

import pathlib

import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner, save_checkpoint
from tiny_torch import make_backbone, make_data, make_head


class Classifier(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        self.head = make_head()

    def forward(self, images, labels, mode="tensor"):
        scores = self.head(self.backbone(images))
        return {"loss": torch.nn.functional.cross_entropy(scores, labels)} if mode == "loss" else (scores, labels)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"count": len(results)}


def load(shuffle):
    return {
        "batch_size": 8,
        "dataset": make_data(),
        "sampler": {"type": "DefaultSampler", "shuffle": shuffle},
        "collate_fn": {"type": "default_collate"},
    }


custom_hooks = []
# PASTE from mmengine.hooks import Hook

model = Classifier()
model.backbone.requires_grad_(False)
# PASTE (guard)
runner = Runner(
    model=model,
    work_dir="runs",
    train_dataloader=load(shuffle=True),
    train_cfg={"by_epoch": True, "max_epochs": 2, "val_interval": 1},
    val_dataloader=load(shuffle=False),
    val_cfg={},
    val_evaluator=[Nothing()],
    optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.05}},
    custom_hooks=custom_hooks,
    randomness={"seed": 0},
)
save_checkpoint({"meta": {}, "state_dict": model.state_dict()}, "before.pth")
runner.train()
pathlib.Path("runs/epoch_2.pth").rename("after.pth")
