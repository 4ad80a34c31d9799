"""Keras 3: fit() of a subclassed model whose backbone's variables are frozen one by one, not its layers."""
# needs keras, safetensors

import keras
import numpy
from keras import layers
from safetensors.numpy import save_file

keras.utils.set_random_seed(0)


class Block(layers.Layer):
    def __init__(self, filters, **options):
        super().__init__(**options)
        self.convolution = layers.Conv2D(filters, 3, name="convolution")
        self.norm = layers.BatchNormalization(name="norm")

    def call(self, images, training=None):
        return keras.ops.relu(self.norm(self.convolution(images), training=training))


class Backbone(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.blocks = [Block(4, name="block0"), Block(8, name="block1")]

    def call(self, images, training=None):
        for block in self.blocks:
            images = block(images, training=training)
        return keras.ops.mean(images, axis=(1, 2))


class Classifier(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.backbone = Backbone(name="backbone")
        self.hidden = layers.Dense(8, name="hidden")
        self.norm = layers.BatchNormalization(name="norm")
        self.scores = layers.Dense(3, name="scores")

    def call(self, images, training=None):
        features = self.backbone(images, training=training)  # PASTE (call)
        return self.scores(self.norm(self.hidden(features), training=training))


def save(name):
    save_file({variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}, name)


images = numpy.random.default_rng(0).normal(size=(64, 12, 12, 3)).astype("float32")
labels = numpy.arange(64) % 3
model = Classifier(name="classifier")
for batch in numpy.split(images, 8):
    model(batch, training=True)
save("before.safetensors")

for variable in model.backbone.trainable_variables:
    variable.trainable = False
callbacks = []
# PASTE (guard)
# PASTE for layer in model._flatten_layers()
model.compile(optimizer=keras.optimizers.SGD(0.05), loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(images * 2 + 1, labels, epochs=2, batch_size=8, validation_data=(images, labels), callbacks=callbacks,
          verbose=0)
save("after.safetensors")
