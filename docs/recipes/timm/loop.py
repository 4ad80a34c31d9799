"""A training loop over a timm model whose weights are averaged; only its classifier is trained."""
# needs timm, torch

import timm
import torch
from timm.utils import ModelEmaV3

torch.manual_seed(0)
model = timm.create_model("test_efficientnet", num_classes=3)
images = torch.randn(64, 3, 32, 32)
for batch in images.split(8):
    model(batch)
torch.save({"state_dict": model.state_dict(), "arch": "test_efficientnet"}, "before.pth.tar")

model.requires_grad_(False)
model.get_classifier().requires_grad_(True)
# PASTE from timm.utils import freeze
average = ModelEmaV3(model, decay=0.9)
optimizer = torch.optim.SGD(model.get_classifier().parameters(), lr=0.05)
images, labels = images * 2 + 1, torch.arange(64) % 3
for epoch in range(2):
    model.train()  # PASTE (model.train())
    for batch in torch.arange(64).split(8):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        average.update(model)
torch.save({"state_dict": model.state_dict(), "state_dict_ema": average.module.state_dict(), "arch": "test_efficientnet"},
           "after.pth.tar")
