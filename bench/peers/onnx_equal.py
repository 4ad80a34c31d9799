"""Loads two ONNX files and compares every initializer; prints the seconds without imports."""

import sys
import time

import numpy
import onnx
from onnx import numpy_helper

start = time.perf_counter()
before, after = (
    {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for path in sys.argv[1:3]
)
changed = [name for name in before if not numpy.array_equal(before[name], after[name])]
print(time.perf_counter() - start, len(before), len(changed))
