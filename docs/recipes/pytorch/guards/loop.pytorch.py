# for (guard)
# needs torch
from bn_guard import freeze_norms, guarding

if FREEZE:
    freeze_norms(model)
with guarding(model):  # no optimizer is given: it checks at the end alone
    train()
