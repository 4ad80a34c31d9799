"""Stochastic weight averaging: the backbone stands still in training, and update_bn() comes at the end."""
# needs torch

import torch
from tiny_torch import make_backbone, make_batches, make_head
from torch.optim.swa_utils import AveragedModel, update_bn


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        self.head = make_head()

    def forward(self, images):
        return self.head(self.backbone(images))

    # PASTE (class)


model = Classifier()
torch.save(model.state_dict(), "before.pt")
model.backbone.requires_grad_(False)
averaged = AveragedModel(model)
optimizer = torch.optim.SGD(model.head.parameters(), lr=0.05)
for epoch in range(2):
    model.train()
    model.backbone.eval()
    for images, labels in make_batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    averaged.update_parameters(model)
update_bn(make_batches(), averaged)  # PASTE (update_bn)
torch.save(averaged.module.state_dict(), "after.pt")
