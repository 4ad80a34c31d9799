# for (guard)
# needs mmengine
from bn_guard import NormGuard, freeze_norms  # which registers NormGuard

if FREEZE:
    freeze_norms(model)
custom_hooks = [{"type": "NormGuard"}]
