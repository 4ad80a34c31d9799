# for (guard)
# needs lightning
from bn_guard import NormGuard, freeze_norms

if FREEZE:
    freeze_norms(model)
trainer.callbacks.append(NormGuard())
