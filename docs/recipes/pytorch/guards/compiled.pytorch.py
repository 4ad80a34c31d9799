# for (guard)
# needs torch
from bn_guard import freeze_norms, guard_norms

if FREEZE:
    freeze_norms(compiled, optimizer)
guard_norms(compiled, optimizer)
