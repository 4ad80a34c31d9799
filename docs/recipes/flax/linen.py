"""Flax Linen: a train step in which the backbone's parameters get no update."""
# needs flax, optax, safetensors

from typing import Any

import jax
import numpy
import optax
from flax import linen
from flax.training import train_state
from flax.traverse_util import flatten_dict, path_aware_map
from safetensors.numpy import save_file


class Backbone(linen.Module):
    @linen.compact
    def __call__(self, images, train):
        for features in (4, 8):
            images = linen.Conv(features, (3, 3))(images)
            images = linen.relu(linen.BatchNorm(use_running_average=not train, momentum=0.9)(images))
        return images.mean((1, 2))


class Classifier(linen.Module):
    def setup(self):
        self.backbone = Backbone()
        self.hidden = linen.Dense(8)
        self.norm = linen.BatchNorm(momentum=0.9)
        self.scores = linen.Dense(3)

    def __call__(self, images, train):
        features = self.backbone(images, train=train)  # PASTE (call)
        return self.scores(self.norm(self.hidden(features), use_running_average=not train))


class TrainState(train_state.TrainState):
    batch_stats: Any


def save(state, name):
    variables = flatten_dict({"params": state.params, "batch_stats": state.batch_stats}, sep="/")
    save_file({path: numpy.asarray(value) for path, value in variables.items()}, name)


@jax.jit
def train_step(state, images, labels):
    def find_loss(params):
        scores, updates = state.apply_fn({"params": params, "batch_stats": state.batch_stats}, images, train=True,
                                         mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean(), updates

    (loss, updates), gradients = jax.value_and_grad(find_loss, has_aux=True)(state.params)
    # PASTE from flax.traverse_util import
    return state.apply_gradients(grads=gradients, batch_stats=updates["batch_stats"])


images = numpy.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("float32")
labels = numpy.arange(64) % 3
model = Classifier()
variables = model.init(jax.random.PRNGKey(0), images, train=False)
for batch in numpy.split(images, 8):
    _, updates = model.apply(variables, batch, train=True, mutable=["batch_stats"])
    variables = {**variables, **updates}
parts = path_aware_map(lambda path, _: "frozen" if path[0] == "backbone" else "trained", variables["params"])
optimizer = optax.multi_transform({"frozen": optax.set_to_zero(), "trained": optax.sgd(0.05)}, parts)
state = TrainState.create(apply_fn=model.apply, tx=optimizer, **variables)
save(state, "before.safetensors")
for epoch in range(2):
    for rows in numpy.split(numpy.arange(64), 8):
        state = train_step(state, images[rows] * 2 + 1, labels[rows])
save(state, "after.safetensors")
