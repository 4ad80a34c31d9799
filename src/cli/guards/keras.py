"""Raises when BatchNormalization moves in a frozen part of the model: fit(callbacks=[NormGuard()])

The cure, once and before compile(): freeze_norms(model). Written by bn-audit init --guard keras.
"""
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy

MODE = "raise"  # or "warn"
PARTS: tuple[str, ...] = ()  # paths of frozen layers, as "model/backbone", where no trainable=False tells them


def list_layers(layer: Any) -> Iterator[Any]:
    """All layers in it, in order."""
    for child in layer._flatten_layers(include_self=False, recursive=False):
        yield child
        yield from list_layers(child)


def find_frozen(model: keras.Model, parts: tuple[str, ...] = PARTS) -> dict[str, Any]:
    """The norm layers in these parts; where none are named, those that neither train nor are fed by what does."""
    if not model.built:
        raise ValueError("a model that is not built has no layers yet: call it once, or build() it")
    trained = {id(variable) for variable in model.trainable_variables}
    frozen, feeding = dict[str, Any](), list[Any]()
    for layer in list_layers(model):
        own = list(layer._trainable_variables)
        if isinstance(layer, keras.layers.BatchNormalization):
            parent = layer.path.rpartition("/")[0]
            learned = feeding + (own or [each for each in model.variables if each.path.startswith(parent)])
            is_trained = any(id(variable) in trained for variable in learned)
            if f"{layer.path}/".startswith(tuple(f"{part}/" for part in parts)) if parts else not is_trained:
                frozen[layer.path] = layer
        feeding = own or feeding
    return frozen


def freeze_norms(model: keras.Model, parts: tuple[str, ...] = PARTS) -> None:
    """Has the frozen norm layers run in inference mode, in training too, which trainable=False means for them."""
    for layer in find_frozen(model, parts).values():
        layer.trainable = False


def read(*variables: Any) -> Any:
    return numpy.array([keras.ops.convert_to_numpy(variable) for variable in variables], dtype=float)


class NormGuard(keras.callbacks.Callback):
    def on_train_begin(self, logs: Any = None) -> None:
        layers = find_frozen(self.model)
        self.before = {path: read(each.moving_mean, each.moving_variance) for path, each in layers.items()}
        if not layers:
            raise ValueError("no norm layer is frozen: freeze first, or name what is in PARTS")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch < 3:
            self.on_epoch_end()

    def on_epoch_end(self, epoch: int = 0, logs: Any = None) -> None:
        shifts = {}
        for path, layer in find_frozen(self.model).items():
            before, after = self.before.get(path), read(layer.moving_mean, layer.moving_variance)
            if before is not None and (after != before).any():
                gamma = numpy.ones_like(before[0]) if layer.gamma is None else read(layer.gamma)[0]
                sigma, new_sigma = (before[1] + layer.epsilon) ** 0.5, (after[1] + layer.epsilon) ** 0.5
                moved = ((after[0] - before[0]) ** 2 + (new_sigma - sigma) ** 2) / sigma**2
                shifts[path] = float((gamma**2 * moved).sum() / max((gamma**2).sum(), 1e-300)) ** 0.5
        if shifts:
            worst = sorted(shifts, key=lambda path: -shifts[path])[:5]
            text = f"{len(shifts)} frozen norm layers moved, in standard deviations: "
            text += ", ".join(f"{path} by {shifts[path]:.2g}" for path in worst) + ". Cure: freeze_norms(model)"
            if MODE == "raise":
                raise RuntimeError(text)
            warnings.warn(text, stacklevel=2)
