"""The Python package, as it is installed: numbers as from C, errors, threads, signals."""

import doctest
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import psld

MIXTURE = "tests/data/capi/mixture.json"
ONNX = "models/cifar10-exact.onnx"


def test_doctests():
    with psld.Model(MIXTURE) as model:
        names = {"psld": psld, "np": np, "model": model, "MODEL": MIXTURE}
        results = [doctest.testmod(module, extraglobs=names) for module in (psld, psld._images)]
    assert [result.failed for result in results] == [0, 0]
    assert results[0].attempted > 20 and results[1].attempted == 2


def test_stepping_and_saving(model):
    whole = model.sample(3, sampler="sscs", nfe=20, seed=4)
    with model.start(3, sampler="sscs", nfe=20, seed=4, previews=True) as run:
        seen = []
        for step in run:
            seen.append(step.step)
            assert run.x0.shape == whole.shape
            if step.step == 7:
                break
        saved = run.save()
        seen += [step.step for step in run]
        assert seen == list(range(1, 21)) and run.progress.done
        assert (run.data == whole).all() and run.state.shape == (3, 6, 2, 2)
        assert run.provenance["seeds"] == {"first": 4, "count": 3}
    with model.load_run(saved, sampler="sscs", nfe=20) as again:
        assert again.progress.step == 7
        again.finish()
        assert (again.data == whole).all()
    with pytest.raises(psld.CheckpointError, match="torn or edited"):
        model.load_run(saved[:-1], sampler="sscs", nfe=20)
    with pytest.raises(psld.CheckpointError, match="of another sampler"):
        model.load_run(saved, sampler="em")


def test_arrays_in(model):
    init = np.full((2, 6, 2, 2), 0.5)
    a = model.sample(2, sampler="euler", steps=3, init=init, dtype="float64")
    # Another type, another layout.
    b = model.sample(2, sampler="euler", steps=3, init=np.asfortranarray(init.astype("float16")), dtype="float64")
    assert (a == b).all()
    sampler = model.sampler("em", steps=3)
    draws = np.stack([[psld.noise(9 + i, "solver", d, (6, 2, 2)) for i in range(2)] for d in range(3)])
    given = model.sample(2, sampler=sampler, noise=draws, seed=9)
    assert (given == model.sample(2, sampler=sampler, seed=9)).all()
    again = model.sampler_of_plan(sampler.plan)
    assert again.hash == sampler.hash
    for held in (sampler, again):
        held.close()
    with pytest.raises(psld.ArgumentError, match="init: expected shape"):
        model.sample(2, init=init[:1])
    image = np.zeros((1, 3, 2, 2), "float32")
    mask = np.ones((1, 1, 2, 2), "float32")
    done = model.sample(2, steps=5, inpaint=(image, mask), inpaint_method="published")
    assert np.abs(done).max() < 0.3, "known everywhere"


def test_restoration(model):
    def average(x):
        return x.mean((2, 3), keepdims=True)

    truth = np.sin(np.arange(24.0)).reshape(2, 3, 2, 2)
    restore = {"operator": {"kind": "average", "factor": 2}}
    made = model.sample(2, sampler="dpmpp", steps=5, restore=restore, measurement=average(truth))
    assert np.abs(average(made) - average(truth)).max() < 1e-6
    mask = np.array([1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 2, 2)
    masked = {"operator": {"kind": "mask"}}
    made = model.sample(2, sampler="dpmpp", steps=5, restore=masked, measurement=(truth, mask))
    assert np.abs((made - truth) * mask).max() < 1e-6
    sampler = model.sampler("dpmpp", steps=5, restore={**restore, "noise": 0.5})
    noisy = model.sample(2, sampler=sampler, measurement=average(truth))
    assert np.abs(average(noisy) - average(truth)).max() > 1e-3
    with pytest.raises(psld.ArgumentError, match="needs what was measured"):
        model.sample(sampler=sampler)


def test_guidance():
    # A mixture whose classes are its components, -0.6, 0 and 0.6 everywhere.
    with psld.Model("tests/data/models/labelled.json") as model, psld.Model(
        "tests/data/models/classifier.json"
    ) as classifier:
        asked = {"labels": [0, 1, 2], "sampler": "sscs", "steps": 30}
        for how in ({"guidance": "cfg"}, {"guidance": "classifier", "guide": classifier}):
            images = model.sample(3, scales=1.0, **how, **asked)
            assert np.allclose(images.mean(axis=(1, 2, 3)), [-0.6, 0, 0.6], atol=0.2), how
            # With a scale of 0 a sample is left to the model, whatever its neighbours do.
            mixed = model.sample(3, scales=[0.0, 1.0, 1.0], **how, **asked)
            assert (mixed[1:] == images[1:]).all() and (mixed[0] != images[0]).any(), how
        how = {"guidance": "classifier", "sampler": "sscs", "steps": 30, "guide": classifier}
        with model.start(3, labels=[0, 1, 2], scales=1.0, **how) as run:
            run.step(10)
            saved = run.save()
        with model.load_run(saved, **how) as run:
            run.finish()
            assert (run.data == images).all()
        with pytest.raises(psld.CheckpointError, match="another guidance network"):
            model.load_run(saved, sampler="sscs", steps=30, guidance="classifier")
        late = model.sample(3, guidance="cfg", guidance_interval=(0.0, 0.2), scales=1.0, **asked)
        assert (late != model.sample(3, guidance="cfg", scales=1.0, **asked)).any()
        with pytest.raises(psld.ArgumentError, match="needs a scale"):
            model.sample(3, guidance="cfg", **asked)
        with pytest.raises(psld.ModelError, match="grad"):
            model.sample(3, guidance="classifier", guide=model, scales=1.0, **asked)


def test_whole_numbers_are_not_cut_off(model):
    assert (psld.noise(2**64 - 1, shape=(2,)) != psld.noise(0, shape=(2,))).any()
    for wrong in (-1, 2**64, 1.5, "1"):
        with pytest.raises(psld.ArgumentError, match="^seed = .*expected a whole number, 0 to 18446744073709551615"):
            psld.noise(wrong)
    with psld.Model("tests/data/models/labelled.json") as labelled:
        assert (labelled.sample(2, nfe=5, labels=[1.0, 2.0]) == labelled.sample(2, nfe=5, labels=[1, 2])).all()
        for wrong in ([0.5, 1], [float("nan")], [2**63], ["1"]):
            with pytest.raises(psld.ArgumentError, match="^labels = "):
                labelled.sample(2, nfe=5, labels=wrong)
    with model.start(2, sampler="sscs", steps=4) as run:
        for indices, seeds in (([0.5], None), ([0], [-1])):
            with pytest.raises(psld.ArgumentError, match="whole numbers"):
                run.gather(indices, seeds=seeds)


def test_errors(model):
    with pytest.raises(psld.ArgumentError) as failed:
        model.sampler("huen")
    assert failed.value.name == "PSLD_STATUS_INVALID_ARGUMENT" and "heun" in failed.value.hint
    assert isinstance(failed.value, ValueError)
    assert str(failed.value) == "unknown sampler `huen`\nhint: did you mean `heun`?"
    with pytest.raises(psld.ArgumentError, match="the sampler is compiled already"):
        with model.sampler("em") as sampler:
            model.sample(1, sampler=sampler, steps=3)
    with pytest.raises(psld.ArgumentError, match="dtype"):
        model.sample(1, dtype="int32")
    with pytest.raises(psld.ArgumentError, match="one of data, state"):
        model.sample(1, output="both")
    with pytest.raises(psld.ArgumentError, match="limit is"):
        model.sample(1000, max_memory=100)
    assert model.memory(7, sampler="em", steps=5) == 7 * 4 * (24 + 24 + 12)
    with pytest.raises(psld.RunError, match="no data estimates"):
        with model.start(1) as run:
            run.step()
            run.x0
    model.close()
    with pytest.raises(ValueError, match="this Model is closed"):
        model.shape


def test_progress_and_cancel(model):
    seen = []
    model.sample(4, nfe=6, batch=2, progress=seen.append)
    assert [p.samples_done for p in seen] == [0] * 5 + [2] + [2] * 5 + [4]
    assert seen[-1].done and seen[-1].fraction == 1.0
    with pytest.raises(psld.Cancelled):
        model.sample(4, progress=lambda p: p.step < 3)
    with pytest.raises(ZeroDivisionError):
        model.sample(4, progress=lambda p: 1 / 0)
    with psld.Cancel() as cancel:
        cancel.cancel()
        with pytest.raises(psld.Cancelled):
            model.sample(4, cancel=cancel)
        with model.start(2, steps=5, cancel=cancel) as run:
            with pytest.raises(psld.Cancelled):
                run.finish()
            run.resume()
            assert run.finish().done
            run.resume(deadline=1e-9)
    with pytest.raises(psld.DeadlineExceeded):
        model.sample(4, sampler="em", nfe=20000, deadline=0.01)
    estimates = model.sample(4, sampler="em", nfe=20000, deadline=0.01, anytime=True, batch=2)
    assert np.isfinite(estimates).all() and np.abs(estimates).sum() > 0


def test_a_bar(model, capsys, monkeypatch):
    model.sample(4, nfe=6, batch=2, progress=True)
    shown = capsys.readouterr().err
    assert "step 6/6" in shown and "100% |" in shown, shown
    model.likelihood(np.zeros((1, 3, 2, 2)), nfe=6, progress=True)
    assert "100% |" in capsys.readouterr().err
    seen = []
    model.likelihood(np.zeros((1, 3, 2, 2)), nfe=6, progress=seen.append)
    assert seen[-1].done and not capsys.readouterr().err
    with pytest.raises(psld.Cancelled):
        model.likelihood(np.zeros((1, 3, 2, 2)), nfe=6, progress=lambda p: False)
    model.sample(1, nfe=6, progress=False)
    assert not capsys.readouterr().err
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="progress=True needs tqdm: pip install tqdm"):
        model.sample(1, progress=True)


@pytest.mark.parametrize("channels, data", [(3, [-1.0, 1.0]), (1, [0.0, 1.0])])
def test_images_are_those_of_the_command_line(channels, data, tmp_path, monkeypatch):
    from PIL import Image

    spec = {"format": 1, "process": {"kind": "vp"}, "data": {"shape": [channels, 4, 5], "range": data}}
    mean = [data[0] + 0.2] * (20 * channels)
    mixture = {"weights": [1], "means": [mean], "variances": [0.3]}
    path = tmp_path / "image.json"
    path.write_text(json.dumps({"psld.spec": {**spec, "network": {"prediction": "epsilon"}}, "mixture": mixture}))
    out = tmp_path / "out"
    command = [os.environ["PSLD_PROGRAM"], "sample", path, "-n", "12", "--nfe", "20", "--seed", "3", "--out", f"{out}/", "-q"]
    subprocess.run([*command, "--sampler", "em"], check=True)
    with psld.Model(path) as model:
        images = model.images(model.sample(12, sampler="em", nfe=20, seed=3))
    pixels = np.array([np.asarray(image) for image in images])
    wanted = np.array([np.asarray(Image.open(file)) for file in sorted(out.iterdir())])
    assert images[0].size == (5, 4) and images[0].mode == {1: "L", 3: "RGB"}[channels]
    assert pixels.dtype == np.uint8 and pixels.shape == wanted.shape and (pixels == wanted).all()
    assert pixels.min() == 0 and pixels.max() > 100, "clipped and not"
    # Every level comes back as it was.
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    values = (data[0] + (data[1] - data[0]) * (levels / 255.0)).astype("float32")
    assert (np.asarray(psld.samples_to_pil(values, range=tuple(data))[0]) == levels[0, 0]).all()
    for wrong in (np.zeros((2, 2, 4, 4)), np.zeros((3, 4, 4))):
        with pytest.raises(psld.ArgumentError, match=r"expected \[n, 1, H, W\]"):
            psld.samples_to_pil(wrong)
    with pytest.raises(psld.ArgumentError, match="ascending"):
        psld.samples_to_pil(values, range=(1.0, 1.0))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match="pip install pillow"):
        psld.samples_to_pil(values)


def test_threads_go_on_while_the_library_works(model):
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.is_set():
            ticks.append(None)
            time.sleep(0.001)

    thread = threading.Thread(target=tick)
    with model.start(200, steps=300) as run:
        thread.start()
        before = len(ticks)
        run.step(300)  # one call
        during = len(ticks) - before
        stop.set()
        thread.join()
    assert during > 5, "the GIL was held"


@pytest.mark.parametrize("how", ["model.sample(64, sampler='em', nfe=20000)", "model.start(64, sampler='em', nfe=20000).finish()"])
def test_ctrl_c(how):
    # What runs in the background may have inherited that Ctrl+C is ignored.
    program = f"""
import signal, psld
signal.signal(signal.SIGINT, signal.default_int_handler)
model = psld.Model({MIXTURE!r}, threads=1)
print("ready", flush=True)
try:
    {how}
except KeyboardInterrupt:
    assert model.sample(1, nfe=5).shape == (1, 3, 2, 2)
    print("interrupted", flush=True)
"""
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=120)
    finally:
        child.kill()
        child.wait()
    assert (out, child.returncode) == ("interrupted\n", 0)


def test_onnx():
    """With the library of the onnxruntime wheel, found without being asked for."""
    model = psld.Model(ONNX, threads=1)
    assert model.info["backend"]["name"] == "onnxruntime"
    x = model.sample(2, sampler="em", nfe=3, seed=0)
    assert x.shape == (2, 3, 32, 32) and np.isfinite(x).all()
    with psld.Model(Path(ONNX).read_bytes(), threads=1) as copy:
        assert (copy.sample(2, sampler="em", nfe=3, seed=0) == x).all()
    info = psld.load_runtime()
    wheel = os.path.dirname(__import__("onnxruntime").__file__)
    assert info["library"].startswith(wheel) or os.environ.get("PSLD_ONNXRUNTIME"), info
    with pytest.raises(psld.OnnxRuntimeError):
        psld.load_runtime("/nowhere/libonnxruntime.so")
    model.close()


def test_another_version_is_refused_at_import(tmp_path):
    package = Path(psld.__file__).parent
    copy = tmp_path / "psld"
    copy.mkdir()
    for file in package.iterdir():
        if file.is_file():
            (copy / file.name).symlink_to(file)
    (copy / "_version.py").unlink()
    (copy / "_version.py").write_text('__version__ = "99.0.0"\n')
    ran = subprocess.run([sys.executable, "-c", "import psld"], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "this package is version 99.0.0" in ran.stderr and f"is version {psld.__version__}" in ran.stderr


def test_the_readme(tmp_path):
    """The blocks of the README, the guide and the package's page, run as they stand."""
    for document in ("README.md", "docs/guide/python.md"):
        block = Path(document).read_text().split("```python\n", 1)[1].split("```", 1)[0]
        program = block.replace('"model.onnx"', repr(os.path.abspath(MIXTURE)))
        assert program != block
        ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
    blocks = Path("bindings/python/README.md").read_text().split("```python\n")[1:]
    assert len(blocks) == 3
    # What is for the main process only is guarded by the last block, which starts others.
    first, second, last = (block.split("```", 1)[0] for block in blocks)
    last, main = last.split('if __name__ == "__main__":\n')
    main = "def main():\n" + "".join(f"    {line}\n" for line in (first + second).splitlines()) + main
    script = tmp_path / "script.py"
    program = f"{last}\n{main}\nif __name__ == '__main__':\n    main()\n"
    script.write_text(program.replace('"model.onnx"', repr(os.path.abspath(MIXTURE))))
    ran = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == "3", ran.stderr
