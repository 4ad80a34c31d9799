"""torch.compile; the backbone's learning rate is 0."""
# needs torch

import torch
from tiny_torch import make_backbone, make_batches, make_head


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        self.head = make_head()

    def forward(self, images):
        return self.head(self.backbone(images))

    # PASTE def train(self


model = Classifier()
# This backend traces and checks modes as the default one does, and needs no C++ compiler.
compiled = torch.compile(model, backend="aot_eager")
torch.save(compiled.state_dict(), "before.pt")
optimizer = torch.optim.SGD([
    {"params": model.backbone.parameters(), "lr": 0.0},
    {"params": model.head.parameters(), "lr": 0.05},
])
# PASTE (guard)
for epoch in range(2):
    model.train()  # PASTE model.train()
    for images, labels in make_batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(compiled(images), labels).backward()
        optimizer.step()
    compiled.eval()
    with torch.no_grad():
        for images, labels in make_batches(seed=4):
            compiled(images)
torch.save(compiled.state_dict(), "after.pt")
