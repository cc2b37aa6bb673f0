#!/usr/bin/env python3
"""Checks the networks that src/onnx writes with the official checker and ONNX Runtime.

    cargo test --test onnx -- --ignored export --nocapture      # prints the folder
    pip install onnx onnxruntime==1.31.1 numpy
    python tests/scripts/onnx_check.py FOLDER [--time [MORE.onnx ...]]

Every file passes onnx.checker with full shape inference; the mixtures and the tiny U-Net match their golden files
(in float16 and bfloat16 as well as those allow); every network gives finite numbers and accepts any batch.
"""
import json
import pathlib
import sys
import time

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort

DATA = pathlib.Path(__file__).parents[1] / "data" / "onnx"
TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(bfloat16)": ml_dtypes.bfloat16}
options = ort.SessionOptions()
options.intra_op_num_threads, options.inter_op_num_threads = 2, 1


def ort_value(array):
    if array.dtype == ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), onnx.TensorProto.BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


class Network:
    def __init__(self, path):
        onnx.checker.check_model(path, full_check=True)
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}

    def __call__(self, z, t, y=None):
        feed = {}
        for name, values in {"z": z, "t": t, "y": y}.items():
            if name in self.inputs:
                port = self.inputs[name]
                dims = [-1, *port.shape[1:]]
                array = np.asarray(values).reshape(dims).astype(TYPES.get(port.type, np.int64))
                feed[name] = ort_value(array)
        # numpy has no bfloat16, so onnxruntime only fills a buffer that it is given.
        output = self.session.get_outputs()[0]
        kind = TYPES[output.type]
        array = np.empty([len(z), *output.shape[1:]], kind)
        binding = self.session.io_binding()
        for name, value in feed.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output("eps", ort_value(array))
        self.session.run_with_iobinding(binding)
        return array.astype(np.float64).reshape(len(array), -1)


def compare(name, got, expected, tolerance):
    expected = np.asarray(expected)
    error = np.max(np.abs(got - expected) / (1 + np.abs(expected)))
    print(f"{name:28} error {error:.1e}  (allowed {tolerance:.0e})")
    assert error <= tolerance, name


folder = pathlib.Path(sys.argv[1])
for case in json.load(open(DATA / "mixture.json"))["cases"]:
    name = "mixture_" + case["name"]
    net = Network(folder / f"{name}.onnx")
    compare(name, net(case["z"], case["t"], case["y"]), case["eps"], 1e-7)
    # In float16 the inputs are other numbers: only that it runs, for typical times.
    net16 = Network(folder / f"{name}.f16.onnx")
    late = [i for i, t in enumerate(case["t"]) if t > 1e-3]
    y = case["y"] and [case["y"][i] for i in late]
    assert np.isfinite(net16([case["z"][i] for i in late], [case["t"][i] for i in late], y)).all()
    if case["y"]:
        assert np.isnan(net(case["z"], case["t"], [case["classes"] + 1] * len(case["t"]))).all()

golden = json.load(open(DATA / "unet.json"))
for suffix, tolerance in [("", 2e-6), (".f16", 5e-3), (".bf16", 5e-2)]:
    compare("unet_tiny" + suffix, Network(folder / f"unet_tiny{suffix}.onnx")(golden["z"], golden["t"]),
            golden["eps"], tolerance)

rng = np.random.default_rng(0)
for path in sorted(folder.glob("unet_*.onnx")):
    net = Network(path)
    channels = net.inputs["z"].shape[1]
    for batch in (1, 3):
        z = rng.standard_normal((batch, channels, *net.inputs["z"].shape[2:]))
        z[:, channels // 2:] /= 2
        eps = net(z, np.linspace(1e-3, 1, batch))
        assert np.isfinite(eps).all()
    small = eps - np.concatenate([z[:, :3], 2 * z[:, 3:]], 1).reshape(eps.shape)
    print(f"{path.stem:28} {path.stat().st_size / 1e6:6.2f} MB  rms of eps {eps.std():.3f}, beside skip z {small.std():.3f}")

path = folder / "every_operation.onnx"
onnx.checker.check_model(path, full_check=True)
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
assert np.isfinite(session.run(None, {"x": rng.standard_normal((2, 4, 8, 8)).astype(np.float32)})[0]).all()

if sys.argv[2:3] == ["--time"]:
    for path in [*sorted(folder.glob("*.onnx")), *map(pathlib.Path, sys.argv[3:])]:
        if path.stem == "every_operation":
            continue
        net = Network(path)
        shape = [16, *net.inputs["z"].shape[1:]]
        z = rng.standard_normal(shape)
        feed = (z, np.full(16, 0.5), np.zeros(16))
        net(*feed)
        times = []
        for _ in range(3 if path.stat().st_size > 1e7 else 30):
            start = time.perf_counter()
            net(*feed)
            times.append(time.perf_counter() - start)
        print(f"{path.stem:28} batch 16: {1e3 * np.median(times):8.2f} ms")
