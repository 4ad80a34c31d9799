"""Paddle: a training loop of one's own; the optimizer has the head's parameters alone."""
# needs paddlepaddle, safetensors

import numpy
import paddle
from paddle import nn
from safetensors.numpy import save_file


class Classifier(nn.Layer):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.ReLU(), nn.Conv2D(4, 8, 3), nn.BatchNorm2D(8),
            nn.AdaptiveAvgPool2D(1), nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1D(8), nn.Linear(8, 3))

    def forward(self, images):
        return self.head(self.backbone(images))

    # PASTE def train(self)


def save(name):
    save_file({path: value.numpy() for path, value in model.state_dict().items()}, name)


paddle.seed(0)
images = paddle.randn([64, 3, 12, 12])
labels = paddle.arange(64) % 3
model = Classifier()
for batch in images.split(8):
    model(batch)
save("before.safetensors")
optimizer = paddle.optimizer.SGD(0.05, parameters=model.head.parameters())
for epoch in range(2):
    model.train()  # PASTE model.train()
    for batch, truth in zip((images * 2 + 1).split(8), labels.split(8)):
        nn.functional.cross_entropy(model(batch), truth).backward()
        optimizer.step()
        optimizer.clear_grad()
    model.eval()
    model(images)
save("after.safetensors")
