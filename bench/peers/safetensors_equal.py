"""Loads two safetensors files and compares every tensor; prints the seconds without imports."""

import sys
import time

import numpy
from safetensors.numpy import load_file

start = time.perf_counter()
before, after = load_file(sys.argv[1]), load_file(sys.argv[2])
changed = [name for name in before if not numpy.array_equal(before[name], after[name])]
print(time.perf_counter() - start, len(before), len(changed))
