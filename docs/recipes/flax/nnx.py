"""Flax NNX: an optimizer that has the head's parameters alone."""
# needs flax, optax, safetensors

import numpy
import optax
from flax import nnx
from safetensors.numpy import save_file


class Backbone(nnx.Module):
    def __init__(self, rngs):
        self.convolution = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)

    def __call__(self, images):
        return nnx.relu(self.norm(self.convolution(images))).mean((1, 2))


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.backbone = Backbone(rngs)
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.scores = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        return self.scores(self.norm(self.hidden(self.backbone(images))))


def save(name):
    variables = nnx.to_flat_state(nnx.state(model))
    save_file({"/".join(map(str, path)): numpy.asarray(value[...]) for path, value in variables}, name)


def is_trained(path, value):
    return isinstance(value, nnx.Param) and "backbone" not in path


@nnx.jit
def train_step(model, optimizer, images, labels):
    def find_loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    optimizer.update(model, nnx.grad(find_loss, argnums=nnx.DiffState(0, is_trained))(model))


images = numpy.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("float32")
labels = numpy.arange(64) % 3
model = Classifier(nnx.Rngs(0))
for batch in numpy.split(images, 8):
    model(batch)
save("before.safetensors")
optimizer = nnx.Optimizer(model, optax.sgd(0.05), wrt=is_trained)
for epoch in range(2):
    model.train()  # PASTE model.train()
    for rows in numpy.split(numpy.arange(64), 8):
        train_step(model, optimizer, images[rows] * 2 + 1, labels[rows])
    model.eval()
    model(images)
save("after.safetensors")
