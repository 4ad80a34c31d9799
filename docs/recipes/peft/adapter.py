"""PEFT: LoRA on a layer of the head; the whole state dict is saved."""
# needs peft, torch

import torch
from peft import LoraConfig, get_peft_model
from tiny_torch import make_backbone, make_batches, make_head


class Classifier(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = make_backbone()
        self.head = make_head()

    def forward(self, images):
        return self.head(self.backbone(images))


base = Classifier()
torch.save(base.state_dict(), "before.pt")
model = get_peft_model(base, LoraConfig(r=2, target_modules=["head.0"], modules_to_save=["head.3"]))
optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=0.1)
for epoch in range(2):
    model.train()  # PASTE model.train()
    for images, labels in make_batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
torch.save(model.state_dict(), "after.pt")
