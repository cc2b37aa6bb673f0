"""Ctrl+C ends what is under way at once, also within a network call, and leaves all as usable as before."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import psld

from test_network import SPEC, normal

HEAD = """
import os, signal, sys, threading, time
import numpy as np
import psld
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
# One step of it takes several seconds.
SLOW = "model = psld.Model('models/cifar10-exact.onnx', threads=1); N = 4000"
MIXTURE = "model = psld.Model('tests/data/capi/mixture.json', threads=1); N = 200; "
MIXTURE += "long, follow = model.sampler('em', steps=10000), model.sampler('euler', nfe=10000, encode=True)"


def interrupted(program, after=0.6):
    """Runs a program that says "ready", interrupts it, and gives what it says then and how long it took."""
    with subprocess.Popen([sys.executable, "-c", HEAD + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        try:
            assert ran.stdout.readline() == "ready\n", ran.stderr.read()
            time.sleep(after)
            ran.send_signal(signal.SIGINT)
            began = time.monotonic()
            first = ran.stdout.readline()
            took = time.monotonic() - began
            # Not `communicate`, which does not know what was read ahead.
            rest, said = ran.stdout.read(), ran.stderr.read()
            ran.wait(100)
        finally:
            ran.kill()
    return first + rest, said, ran.returncode, took


@pytest.mark.parametrize(
    "model, call",
    [
        (SLOW, "model.sample(N, sampler='em', steps=2)"),
        (SLOW, "model.sample(N, sampler='em', steps=2, progress=lambda p: None)"),
        (SLOW, "model.sample(N, sampler='em', steps=2, cancel=cancel)"),
        (SLOW, "run.step()"),
        (SLOW, "run.finish()"),
        (SLOW, "model.likelihood(np.zeros((N, *model.shape), 'f4'), nfe=9)"),
        (MIXTURE, "model.sample(N, sampler=long, cancel=cancel)"),
        (MIXTURE, "model.likelihood(np.zeros((N, *model.shape), 'f4'), sampler=follow)"),
    ],
)
def test_within_a_network_call(model, call):
    program = f"""
{model}
cancel = psld.Cancel()
if "run" in {call!r}: run = model.start(N, sampler="em", steps=2, cancel=cancel)
print("ready", flush=True)
try:
    {call}
    print("not interrupted", flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert model.sample(1, nfe=3, cancel=cancel).shape == (1, *model.shape), "nor is the caller's token used up"
if "run" in {call!r}:
    assert run.progress.step == 0, run.progress
    run.gather(range(2))
    wanted = model.sample(2, sampler="em", steps=2)
    assert run.finish().done and np.allclose(run.data, wanted, atol=1e-4)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler and signal.set_wakeup_fd(-1) == -1
"""
    out, said, status, took = interrupted(program)
    assert (out, said, status) == ("interrupted\n", "", 0)
    assert took < 1.5, f"{took:.1f} s"


def test_within_a_network_in_python():
    """And in who is told of the progress: what is there is interrupted itself."""
    program = f"""
SPEC = {SPEC!r}
calls = []
def sleepy(z, t):
    calls.append(1)
    if len(calls) == 2:
        print("ready", flush=True); time.sleep(60)
    return z * 0.1
def told(p):
    if p.step == 3 and len(calls) > 5:
        print("ready", flush=True); time.sleep(60)
model = psld.Model(sleepy, spec=SPEC)
run = model.start(1, sampler="euler", nfe=9)
try: run.finish()
except KeyboardInterrupt: print("interrupted", flush=True)
assert run.finish().done and (run.data == model.sample(1, sampler="euler", nfe=9)).all()
print("done")
"""
    out, said, status, took = interrupted(program)
    assert (out, said, status) == ("interrupted\ndone\n", "", 0) and took < 1.5
    program = program.replace("run.finish()\nexcept", "calls = [0] * 9; model.sample(1, nfe=9, progress=told)\nexcept")
    out, said, status, took = interrupted(program)
    assert (out, said, status) == ("interrupted\ndone\n", "", 0) and took < 1.5


def test_a_call_within_a_network():
    program = f"""
{SLOW}
def outer(z, t):
    print("ready", flush=True)
    model.sample(N, sampler="em", steps=2)
    print("went on")
    return z
other = psld.Model(outer, spec={SPEC!r})
try: other.sample(1, nfe=9)
except KeyboardInterrupt: print("interrupted", flush=True)
assert model.sample(1, nfe=3).shape == (1, 3, 32, 32)
"""
    out, said, status, took = interrupted(program, 1.0)
    assert (out, said, status) == ("interrupted\n", "", 0) and took < 1.5


def test_a_handler_of_the_caller_s_own():
    """Is left in peace."""
    program = f"""
{MIXTURE}
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
print("ready", flush=True)
while not seen:
    assert np.isfinite(model.sample(50, sampler="em", steps=1000)).all()
print(seen, flush=True)
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.kill(os.getpid(), signal.SIGINT)
model.sample(1)
"""
    out, said, status, _ = interrupted(program, 0.2)
    assert (out, said, status) == ("[1]\n", "", 0)


def test_who_else_hears_of_signals():
    """By a pipe of its own, such as an event loop's."""
    program = f"""
{MIXTURE}
read, write = os.pipe()
os.set_blocking(write, False)
signal.set_wakeup_fd(write)
print("ready", flush=True)
try: model.sample(N, sampler=long)
except KeyboardInterrupt: print("interrupted", flush=True)
assert os.read(read, 9) == bytes([signal.SIGINT]) and signal.set_wakeup_fd(-1) == write
"""
    out, said, status, took = interrupted(program)
    assert (out, said, status) == ("interrupted\n", "", 0) and took < 1.5


def test_again_and_again():
    """Each signal ends one call: none is lost, and none is left for the next."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with psld.Model("tests/data/capi/mixture.json", threads=1) as model, model.sampler("em", steps=400) as sampler:
            for i in range(60):
                timer = threading.Timer(0.0005 * i, os.kill, (os.getpid(), signal.SIGINT))
                began = time.monotonic()
                with pytest.raises(KeyboardInterrupt):
                    timer.start()
                    while time.monotonic() - began < 20:
                        # Nor is a handle lost that was just made.
                        model.sample(8, sampler=sampler) if i % 2 else model.start(1, sampler="em", steps=20)
                timer.join()
                assert model.sample(1, nfe=3).shape == (1, 3, 2, 2)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_go_on():
    """A signal is the main thread's."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    got = []
    try:
        with psld.Model("tests/data/capi/mixture.json", threads=1) as model, psld.Cancel() as cancel:
            sampler = model.sampler("em", steps=3000)
            whole = model.sample(2, sampler=sampler)
            threads = [
                threading.Thread(target=lambda: got.append(model.sample(2, sampler=sampler, cancel=cancel))) for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                model.sample(4000, sampler=sampler, cancel=cancel)
            for thread in threads:
                thread.join()
            assert [(one == whole).all() for one in got] == [True, True]
            # The caller's token stops what is held by it, from another thread, too.
            timer = threading.Timer(0.05, cancel.cancel)
            timer.start()
            with pytest.raises(psld.Cancelled):
                model.sample(4000, sampler=sampler, cancel=cancel)
            timer.join()
            with pytest.raises(psld.Cancelled), model.start(1, cancel=cancel) as run:
                run.step()
            sampler.close()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_deadline_outlives_an_interruption():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    calls = []

    def network(z, t):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.02)
        return normal(z, t)

    try:
        with psld.Model(network, spec=SPEC) as model, model.start(1, nfe=100, deadline=0.5) as run:
            with pytest.raises(KeyboardInterrupt):
                run.finish()
            with pytest.raises(psld.DeadlineExceeded):
                run.finish()
            assert 5 < len(calls) < 60
            run.resume()
            assert run.step().step > 1
    finally:
        signal.signal(signal.SIGINT, before)
    assert np.isfinite(len(calls))
