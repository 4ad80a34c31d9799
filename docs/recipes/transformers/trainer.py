"""transformers' Trainer, evaluating every three steps, on a small ResNet."""
# needs transformers, accelerate, torch

import torch
import transformers
from transformers import ResNetConfig, ResNetForImageClassification

torch.manual_seed(0)
config = ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3)
made = ResNetForImageClassification(config)
for images in torch.randn(8, 8, 3, 32, 32):
    made(images)
made.save_pretrained("before")


class Trainer(transformers.Trainer):
    """Ours, for the advice to go in."""

    # PASTE def compute_loss(self


model_class = ResNetForImageClassification
# PASTE (model_class)

model = model_class.from_pretrained("before")
model.resnet.requires_grad_(False)
data = [{"pixel_values": torch.randn(3, 32, 32) * 2 + 1, "labels": number % 3} for number in range(32)]
callbacks = []
# PASTE (callbacks)
arguments = transformers.TrainingArguments(
    "runs",
    num_train_epochs=2,
    per_device_train_batch_size=8,
    eval_strategy="steps",
    eval_steps=3,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    use_cpu=True,
)
trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, callbacks=callbacks)
# PASTE (guard)
trainer.train()
trainer.save_model("after")
