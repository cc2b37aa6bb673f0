"""What the library does for a process in Python: it says nothing to anybody, and a network knows its samples."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import psld

POINTS = {
    "format": 1,
    "process": {"kind": "vp"},
    "data": {"shape": [2], "range": [-100, 100]},
    "network": {"prediction": "x0"},
}


def test_onnxruntime_does_not_phone_home(tmp_path):
    program = "import psld, time; psld.Model('models/cifar10-exact.onnx').sample(1, nfe=3); time.sleep(3)"
    command = [sys.executable, "-c", program]
    trace = tmp_path / "trace"
    if shutil.which("strace"):
        command = ["strace", "-f", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(trace), *command]
    home = tmp_path / "home"
    home.mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PSLD", "PATH", "PYTHON", "LD_"))}
    xdg = {f"XDG_{name}": str(home) for name in ("CACHE_HOME", "CONFIG_HOME", "DATA_HOME", "STATE_HOME", "RUNTIME_DIR")}
    environment = {**kept, **xdg, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, env=environment, check=True, timeout=100)
    assert [path for path in home.rglob("*") if path.is_file()] == []
    if trace.exists():
        calls = [line for line in trace.read_text().splitlines() if "connect(" in line or "send" in line]
        assert [line for line in calls if "AF_UNIX" not in line] == []


def conditioned(conditions):
    def network(z, t, *, indices, tags):
        assert indices.shape == tags.shape == t.shape
        assert indices.dtype == np.int64 and tags.dtype == np.uint64 and not indices.flags.writeable
        return np.broadcast_to((10.0 * tags + conditions[indices])[:, None], z.shape)

    return psld.Model(network, spec=POINTS, name="conditioned")


def test_a_network_is_told_its_samples():
    conditions = np.arange(5.0)
    with conditioned(conditions) as model:
        for batch in (0, 1, 2, 3):
            made = model.sample(5, sampler="ddim", nfe=5, batch=batch, tag=batch)
            np.testing.assert_allclose(made[:, 0], 10.0 * batch + conditions, atol=0.05)
        with model.start(5, sampler="ddim", nfe=5, batch=2, tag=3) as run:
            run.step()
            run.gather([4, 1, 1])
            saved = run.save()
            with model.load_run(saved, sampler="ddim", nfe=5) as again:
                for one in (run, again):
                    one.finish()
                    np.testing.assert_allclose(one.data[:, 0], 30.0 + conditions[[4, 1, 1]], atol=0.05)
        with psld.Engine(model, max_batch=4, max_wait=0.2) as engine:
            tickets = [engine.submit(3, sampler="ddim", nfe=5, tag=tag) for tag in range(3)]
            for tag, ticket in enumerate(tickets):
                np.testing.assert_allclose(ticket.result()[:, 0], 10.0 * tag + conditions[:3], atol=0.05)
                ticket.close()
        for tag in (-1, 2**64, 0.5):
            with pytest.raises(psld.ArgumentError, match="tag"):
                model.sample(1, nfe=2, tag=tag)


def test_only_who_asks_is_told():
    class Forwards:
        def __call__(self, *arrays, **named):
            assert named == {} and len(arrays) == 2
            return arrays[0] * 0

    for network in (Forwards(), lambda z, t: z * 0):
        with psld.Model(network, spec=POINTS) as model:
            assert model.sample(2, nfe=2).shape == (2, 2)
    with psld.Model(lambda z, t, indices=None: z * 0 + indices[:, None], spec=POINTS) as model:
        np.testing.assert_allclose(model.sample(3, sampler="ddim", nfe=4)[:, 1], [0, 1, 2], atol=0.05)


def test_providers_by_onnxruntime_s_names():
    for providers in ("CPUExecutionProvider", ["CUDAExecutionProvider", "CPUExecutionProvider"]):
        with psld.Model("models/cifar10-exact.onnx", providers=providers) as model:
            assert model.info["backend"]["provider"] == "cpu"
