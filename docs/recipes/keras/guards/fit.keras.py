# for (guard)
# needs keras
from bn_guard import NormGuard, freeze_norms

if FREEZE:
    freeze_norms(model)
callbacks = [NormGuard()]
