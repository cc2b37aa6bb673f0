"""Samples a batch for each line that it reads, and prints the seconds. MODEL.onnx N VERSION"""

import sys
import time
import types

# What building the wheel writes; here the package is imported as it lies in the repository.
sys.modules["psld._version"] = types.ModuleType("psld._version")
sys.modules["psld._version"].__version__ = sys.argv[3]
import psld

model, n = psld.Model(sys.argv[1]), int(sys.argv[2])
sampler = model.sampler("euler", steps=50, denoise=False)
for _ in sys.stdin:
    began = time.perf_counter()
    model.sample(n, sampler=sampler)
    print(time.perf_counter() - began, flush=True)
