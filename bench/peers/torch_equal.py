"""Loads two .pt files and compares every tensor; prints the seconds without imports."""

import sys
import time

import torch

start = time.perf_counter()
before, after = (torch.load(path, map_location="cpu", weights_only=True) for path in sys.argv[1:3])
changed = [name for name in before if not torch.equal(before[name], after[name])]
print(time.perf_counter() - start, len(before), len(changed))
