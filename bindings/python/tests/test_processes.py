"""More than one process: forks, and what is handed from one to another."""

import copy
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import psld

from test_network import SPEC, normal

MIXTURE = "tests/data/capi/mixture.json"
ONNX = "models/cifar10-exact.onnx"
HEAD = f"""
import multiprocessing, os, signal, sys, threading, time
import numpy as np
import psld
SPEC = {json.dumps(SPEC)}
MIXTURE, ONNX = {os.path.abspath(MIXTURE)!r}, {os.path.abspath(ONNX)!r}
def network(z, t):
    return z * 0
def wait(pid, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"
def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        sys.exit(0)
    return wait(pid)
def refused(what):
    began = time.monotonic()
    try:
        what()
    except psld.ArgumentError as e:
        assert e.status == 111 and "forked" in str(e) and "hint: load the model" in str(e), e
        assert time.monotonic() - began < 1
        return
    raise AssertionError("not refused")
"""


def program(text, tmp_path, *options):
    script = tmp_path / "script.py"
    script.write_text(HEAD + text)
    ran = subprocess.run([sys.executable, *options, script], capture_output=True, text=True, timeout=200)
    assert (ran.stderr, ran.returncode) == ("", 0), (ran.stdout, ran.stderr, ran.returncode)
    return ran.stdout


@pytest.mark.parametrize("path", [MIXTURE, ONNX])
def test_a_forked_child(tmp_path, path):
    """Leaves, lets go, uses what is its parent's, makes its own; and nothing of it reaches the parent."""
    text = f"""
model = psld.Model({os.path.abspath(path)!r}, threads=2); sampler = model.sampler("em", nfe=3); run = model.start(2, sampler=sampler)
run.step(); engine = psld.Engine(model); ticket = engine.submit(1, sampler="em", nfe=3); ticket.result(); cancel = psld.Cancel()
mine, own = psld.Model(network, spec=SPEC), psld.Model({os.path.abspath(path)!r}, threads=2)
x = model.sample(1, sampler=sampler)
def leave(): pass
def close():
    for one in (ticket, engine, run, cancel, sampler, model, mine): one.close()
def forget():
    global model, sampler, run, engine, ticket, cancel, mine, own
    del model, sampler, run, engine, ticket, cancel, mine, own
def failure(): os._exit(3) if False else sys.exit(3)
def use():
    for what in (lambda: model.sample(1), lambda: model.shape, lambda: model.info, lambda: model.sampler("em"), lambda: run.step(),
                 lambda: run.data, lambda: run.save(), lambda: run.progress, lambda: engine.submit(1), lambda: engine.stats,
                 lambda: ticket.result(), lambda: ticket.wait(5), lambda: ticket.cancel(), lambda: ticket.id,
                 lambda: ticket.progress, cancel.cancel, lambda: psld.Engine(model), lambda: mine.sample(1),
                 lambda: own.sample(1, cancel=cancel), lambda: model.start(1), lambda: model.memory(1)):
        refused(what)
    for one in (model, run, engine, ticket, cancel): assert "of process" in repr(one), repr(one)
    assert sampler.nfe == 3
def again():
    global model
    model = psld.Model({os.path.abspath(path)!r}, threads=2)
    assert (model.sample(1, sampler="em", nfe=3) == x).all() and (model.sample(1, sampler=sampler) == x).all()
    with psld.Engine(model) as engine: assert np.allclose(engine.submit(1, sampler="em", nfe=3).result(), x, atol=1e-4)
    with model.start(1, sampler="em", nfe=3) as run: assert (run.finish(), (run.data == x).all())[1]
def again_of_a_function():
    assert psld.Model(network, spec=SPEC).sample(1).shape == (1, 2, 3)
def grandchild():
    assert child(use) == 0 and child(again) == 0
for work in (leave, close, forget, failure, use, again, again_of_a_function, grandchild):
    print(work.__name__, child(work), flush=True)
assert (model.sample(1, sampler=sampler) == x).all() and engine.submit(1, sampler="em", nfe=3).result().shape == x.shape
assert run.finish().done and ticket.result().shape == x.shape and mine.sample(1).shape == (1, 2, 3)
"""
    names = ["leave", "close", "forget", "failure", "use", "again", "again_of_a_function", "grandchild"]
    assert program(text, tmp_path) == "".join(f"{name} {3 if name == 'failure' else 0}\n" for name in names)


def test_a_fork_amid_work(tmp_path):
    """Of a process whose threads are in the library, and from within a callback."""
    text = """
model = psld.Model(network, spec=SPEC); engine = psld.Engine(model)
stop = threading.Event()
def work():
    while not stop.is_set(): model.sample(1, nfe=9); engine.submit(1, nfe=9).result()
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads: thread.start()
def own():
    refused(lambda: model.sample(1)); refused(lambda: engine.submit(1))
    assert psld.Model(MIXTURE).sample(1, nfe=5).shape == (1, 3, 2, 2) and psld.Model(network, spec=SPEC).sample(1, nfe=5).any()
print([child(own) for _ in range(10)])
stop.set()
for thread in threads: thread.join()
def forks(z, t):
    pid = os.fork()
    if pid == 0:
        refused(lambda: model.sample(1)); psld.Model(MIXTURE).sample(1, nfe=5); os._exit(4)
    codes.append(wait(pid))
    return z
codes = []
psld.Model(forks, spec=SPEC).sample(1, nfe=2, sampler="em"); print(codes)
"""
    assert program(text, tmp_path) == f"{[0] * 10}\n[4, 4]\n"


@pytest.mark.parametrize("how", ["fork", "spawn", "forkserver"])
def test_multiprocessing(tmp_path, how):
    text = f"""
def own(queue):
    global model
    model = psld.Model(ONNX, threads=1)
    queue.put(model.sample(1, nfe=3, sampler="em", seed=5))
def inherited(_):
    return model.sample(1).shape
def handed(arguments):
    model, sampler, seed = arguments
    return model.sample(2, sampler=sampler, seed=seed)
def wrong(model):
    model.sample(1, nfe=-1)
if __name__ == "__main__":
    model = psld.Model(ONNX, threads=1); x = model.sample(1, nfe=3, sampler="em", seed=5)
    context = multiprocessing.get_context({how!r})
    queue = context.Queue(); process = context.Process(target=own, args=(queue,)); process.start()
    assert np.allclose(queue.get(timeout=60), x, atol=1e-5); process.join(60); print(process.exitcode)
    mine = psld.Model(network, spec=SPEC); sampler = mine.sampler("sscs", steps=6)
    with context.Pool(2) as pool:
        for i, given in enumerate(pool.map(handed, [(mine, sampler, seed) for seed in range(4)])):
            assert (given == mine.sample(2, sampler=sampler, seed=i)).all()
        for one in (psld.Model(MIXTURE), psld.Model(open(MIXTURE, "rb").read())):
            given, = pool.map(handed, [(one, one.sampler("em", steps=3), 3)])
            assert (given == one.sample(2, sampler="em", steps=3, seed=3)).all()
        try: pool.apply(wrong, (mine,))
        except psld.ArgumentError as e: print(e)
        if {how!r} == "fork":
            try: pool.map(inherited, [1])
            except psld.ArgumentError as e: print(e.status)
"""
    out = program(text, tmp_path)
    assert out == "0\nnfe = -1: expected a whole number, 0 to 4294967295\n" + ("111\n" if how == "fork" else "")


def test_ctrl_c_in_a_child(tmp_path):
    """Forked when the thread that hears of signals is there, and from within a call."""
    text = """
signal.signal(signal.SIGINT, signal.default_int_handler)
def busy():
    model = psld.Model(MIXTURE); model.sample(1)
    threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    try: model.sample(50, sampler="em", nfe=50000)
    except KeyboardInterrupt: sys.exit(9)
psld.Model(MIXTURE).sample(1)
print(child(busy))
codes = []
def forks(z, t):
    if not codes: codes.append(child(busy))
    return z
psld.Model(forks, spec=SPEC).sample(1, nfe=2, sampler="em"); print(codes)
"""
    assert program(text, tmp_path) == "9\n[9]\n"


def test_copies_of_a_model(model):
    whole = model.sample(2, nfe=9)
    for how in (copy.copy, copy.deepcopy):
        twin = how(model)
        assert twin is not model and (twin.sample(2, nfe=9) == whole).all()
        del twin
        assert model.shape == (3, 2, 2)
        twin = how(model)
        twin.close()
        assert model.shape == (3, 2, 2)
    twin = copy.copy(model)
    model.close()
    assert (twin.sample(2, nfe=9) == whole).all()
    twin.close()
    with pytest.raises(psld.ArgumentError, match="this Model is closed"):
        copy.copy(model).shape
    with pytest.raises(psld.ArgumentError, match="this Model is closed"):
        pickle.dumps(model)


class Scaled:
    """A network with weights."""

    def __init__(self, scale):
        self.scale = scale

    def __call__(self, z, t):
        return normal(z, t) * self.scale


def test_a_model_in_an_object():
    """As training scripts copy what they keep."""
    net = Scaled(0.5)
    holder = {"net": net, "model": psld.Model(net, spec=SPEC, name="mine"), "again": [net]}
    before = holder["model"].sample(1, nfe=5)
    for other in (copy.deepcopy(holder), pickle.loads(pickle.dumps(holder))):
        assert other["net"] is other["again"][0] is not net
        assert (other["model"].sample(1, nfe=5) == before).all()
        other["net"].scale = 0.25
        assert (other["model"].sample(1, nfe=5) != before).any() and (holder["model"].sample(1, nfe=5) == before).all()
        assert other["model"].info["hash"] == holder["model"].info["hash"]
    # A function is not copied.
    model = psld.Model(normal, spec=json.dumps(SPEC))
    assert (copy.deepcopy([model])[0].sample(1) == model.sample(1)).all()
    assert (pickle.loads(pickle.dumps(model)).sample(1) == model.sample(1)).all()
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(psld.Model(lambda z, t: z, spec=SPEC))

    class Sub(psld.Model):
        pass

    assert type(copy.deepcopy(Sub(normal, spec=SPEC))) is Sub


def test_pickled_models(tmp_path, monkeypatch):
    path = Path(MIXTURE).resolve()
    wanted = None
    monkeypatch.chdir(path.parent)
    made = [
        psld.Model(path.name, threads=1), psld.Model(path, providers=["cpu"]), psld.Model(path.read_bytes()),
        psld.Model(bytearray(path.read_bytes())),
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for model in made:
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
            with pickle.loads(pickle.dumps(model, protocol)) as again, pickle.loads(pickle.dumps(again)) as third:
                wanted = again.sample(1, seed=3) if wanted is None else wanted
                assert (third.sample(1, seed=3) == wanted).all() and again.info == model.info
    with pytest.raises(psld.FileMissing):
        moved = tmp_path / "moved.json"
        moved.write_bytes(path.read_bytes())
        with psld.Model(moved) as model:
            content = pickle.dumps(model)
        moved.unlink()
        pickle.loads(content)


def test_samplers_are_pickled_by_what_was_asked(model):
    image, mask = np.zeros((1, 3, 2, 2)), np.ones((1, 1, 2, 2))
    requests = [
        dict(sampler="em", steps=4, seed=7), dict(sampler="rk45", rtol=1e-3), dict(sampler="sscs", time_grid=[1.0, 0.5, 0.1]), {},
        dict(sampler="dpmpp", steps=4, inpaint="corrected"), dict(encode=True, nfe=9),
        dict(sampler="dpmpp", steps=5, restore={"operator": {"kind": "average", "factor": 2}}),
    ]  # fmt: skip
    for request in requests:
        with model.sampler(**request) as sampler:
            for other in (pickle.loads(pickle.dumps(sampler)), copy.copy(sampler), copy.deepcopy(sampler)):
                assert other.hash == sampler.hash and repr(other) == repr(sampler) and other.nfe == sampler.nfe
                other.close()
            assert sampler.hash
    sampler = model.sampler("em", steps=4, seed=7)
    again = pickle.loads(pickle.dumps(sampler))
    assert (model.sample(2, sampler=again) == model.sample(2, sampler="em", steps=4, seed=7)).all()
    assert (model.sample(2, sampler=again, seed=0) == model.sample(2, sampler="em", steps=4, seed=0)).all(), "not the sampler's"
    planned = pickle.loads(pickle.dumps(model.sampler_of_plan(sampler.plan)))
    assert planned.hash == sampler.hash
    # Also of a model that is gone, and one that cannot be pickled.
    other = psld.Model(lambda z, t: z, spec=SPEC)
    of_other = other.sampler("ddim", nfe=5)
    model.close()
    other.close()
    assert pickle.loads(pickle.dumps(sampler)).hash == sampler.hash
    assert pickle.loads(pickle.dumps(of_other)).hash == of_other.hash
    sampler.close()
    with pytest.raises(psld.ArgumentError, match="this Sampler is closed"):
        pickle.dumps(sampler)
    del image, mask


def test_what_is_not_copied(model):
    with psld.Engine(model) as engine, model.start(1, nfe=5) as run, psld.Cancel() as cancel:
        with engine.submit(1, nfe=5) as ticket:
            ticket.wait()
            for one, hint in ((engine, "in each process"), (run, "save()"), (cancel, "make one in each"), (ticket, "result()")):
                for how, word in ((copy.copy, "copied"), (copy.deepcopy, "copied"), (pickle.dumps, "pickled")):
                    with pytest.raises(psld.ArgumentError, match=f"a {type(one).__name__} is not {word}") as failed:
                        how(one)
                    assert hint in failed.value.hint
            assert run.finish().done and ticket.result().shape == engine.submit(1).result().shape


def test_errors_and_values_are_pickled(model):
    made = [psld.ArgumentError(100, "what"), psld.FileMissing(108, "where", "look"), psld.OnnxRuntimeMissing(300, "none"), psld.OutOfMemory(902, "how much", "less")]
    for wrong in (dict(nfe=-1), dict(sampler="huen"), dict(deadline=1e-9, nfe=5000), dict(max_memory=1)):
        with pytest.raises(psld.PsldError) as failed:
            model.sample(1, **wrong)
        made.append(failed.value)
    for error in made:
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(again) is type(error) and str(again) == str(error)
            assert (again.status, again.hint, again.args) == (error.status, error.hint, error.args)
    seen = []
    model.sample(1, nfe=3, progress=seen.append)
    assert pickle.loads(pickle.dumps(seen)) == seen
    del made, failed, error, again


def test_threads_share_copies():
    model = psld.Model(normal, spec=SPEC)
    wanted, got = model.sample(1, nfe=20), []

    def work():
        for _ in range(20):
            with copy.copy(model) as mine:
                got.append((mine.sample(1, nfe=20) == wanted).all())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 80 and all(got)
    assert multiprocessing and time
