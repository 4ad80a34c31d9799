# for (guard)
# needs transformers
from bn_guard import NormGuard, freeze_norms

if FREEZE:
    freeze_norms(model)
trainer.add_callback(NormGuard())
