"""Writes z.npy and eps.npy: what Python's onnxruntime 1.31.1 makes of model.onnx (that of the reference case em_psld)."""

import pathlib

import numpy as np
import onnxruntime

here = pathlib.Path(__file__).parent
z = np.random.default_rng(7).standard_normal((4, 6, 4, 4)).astype(np.float32)
t = np.array([1.0, 0.5, 0.1, 0.001], np.float32)
session = onnxruntime.InferenceSession(here / "model.onnx", providers=["CPUExecutionProvider"])
np.save(here / "z.npy", z)
np.save(here / "eps.npy", session.run(["eps"], {"z": z, "t": t})[0])
