"""Many callers on one network."""

import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import psld

from test_network import NORMAL, SPEC, normal

MIXTURE = "tests/data/capi/mixture.json"


def test_requests_from_threads_are_what_they_are_alone(model):
    kinds = [dict(sampler="sscs", nfe=15), dict(sampler="heun", nfe=21), dict(sampler="em", steps=9, dtype="float64")]
    wrong = []

    def caller(first):
        for i, options in enumerate(kinds):
            n, seed = 1 + (first + i) % 4, 100 * first + i
            with engine.submit(n, seed=seed, priority=i - 1, **options) as ticket:
                end = ticket.wait()
                alone = model.sample(n, seed=seed, **options)
                same = (ticket.result() == alone).all() and ticket.result().dtype == alone.dtype
                if not (same and end.done and end == ticket.progress and end.samples_done == n):
                    wrong.append((first, i))

    with psld.Engine(model, max_batch=5) as engine:
        threads = [threading.Thread(target=caller, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert {key: engine.stats[key] for key in ("requests", "submitted", "completed", "failed")} == {
            "requests": 0, "submitted": 24, "completed": 24, "failed": 0,
        }  # fmt: skip
        with model.sampler("em", steps=3) as compiled, engine.submit(2, sampler=compiled, seed=4) as ticket:
            assert (ticket.result(timeout=60) == model.sample(2, sampler="em", steps=3, seed=4)).all()
            assert ticket.read("state").shape == (2, 6, 2, 2) and ticket.read("data", "float64").dtype == np.float64
            assert ticket.provenance["seeds"] == {"first": 4, "count": 2}


def test_what_a_request_can_meet(model):
    with psld.Engine(model, queue=2) as engine, model.sampler("em", steps=20000) as slow:
        a, b = (engine.submit(2, sampler=slow, previews=True) for _ in range(2))
        assert a.id < b.id
        with pytest.raises(psld.QueueFull, match="queue is full"):
            engine.submit(1)
        with pytest.raises(TimeoutError, match=f"request {a.id} has not ended after 0.01 s"):
            a.result(timeout=0.01)
        assert not b.wait(0).done and not b.progress.done
        while a.progress.nfe == 0:
            time.sleep(0.001)
        assert a.x0.shape == (2, 3, 2, 2)
        with pytest.raises(psld.RunError, match="not complete"):
            a.read()
        a.cancel()
        for _ in range(2):
            with pytest.raises(psld.Cancelled, match=f"request {a.id}: cancelled after step"):
                a.result()
        assert a.progress.nfe > 0 and not a.progress.done
        b.close()
        with psld.Cancel() as cancel:
            with engine.submit(1, sampler=slow, cancel=cancel) as ticket:
                cancel.cancel()
                with pytest.raises(psld.Cancelled):
                    ticket.wait()
        with engine.submit(1, sampler=slow, deadline=0.01) as ticket, pytest.raises(psld.DeadlineExceeded):
            ticket.result()
        with engine.submit(2, sampler=slow, deadline=0.01, anytime=True) as ticket:
            assert ticket.result().shape == (2, 3, 2, 2)
            with pytest.raises(psld.Partial):
                ticket.wait()
        for wrong in (dict(priority=11), dict(n=0), dict(labels=[1])):
            with pytest.raises(psld.ArgumentError):
                engine.submit(**{"n": 1, **wrong})
        with pytest.raises(psld.ArgumentError, match="timeout = -1"):
            a.wait(-1)
        left = engine.submit(3, sampler=slow)
    with pytest.raises(psld.Cancelled, match="the engine was closed"):
        left.wait()
    with pytest.raises(ValueError, match="this Engine is closed"):
        engine.submit(1)
    with pytest.raises(psld.ArgumentError, match="max_batch"):
        psld.Engine(model, max_batch=-1)
    for ticket in (a, left):
        ticket.close()


def test_threads_go_on_while_one_waits(model):
    with psld.Engine(model) as engine, engine.submit(64, steps=2000) as ticket:
        ticks = []
        waiting = threading.Thread(target=lambda: (ticket.wait(), ticks.append(None)))
        waiting.start()
        count = 0
        while not ticks:
            count += 1
            time.sleep(0.001)
        waiting.join()
    assert count > 5, "the GIL was held"


def test_a_network_in_python():
    threads = set()

    def network(z, t):
        threads.add(threading.get_ident())
        if (t < 0.5).any() and broken:
            raise LookupError("no weights")
        return normal(z, t)

    broken = False
    options = dict(sampler="euler", steps=5, seed=3, dtype="float64")
    with psld.Model(network, spec=SPEC) as own, psld.Model(NORMAL) as exact, psld.Engine(own) as engine:
        with engine.submit(4, **options) as ticket:
            np.testing.assert_allclose(ticket.result(), exact.sample(4, **options), rtol=1e-12)
        assert len(threads) == 1 and threading.get_ident() not in threads
        broken = True
        with engine.submit(1, **options) as ticket:
            with pytest.raises(RuntimeError, match=r"request \d+: .*: LookupError: no weights \(test_engine.py:\d+\)"):
                ticket.result()
        # As itself, where the network runs on one's own thread; and what the engine's met is not taken for it.
        with pytest.raises(LookupError, match="no weights"):
            own.sample(1, **options)
        with pytest.raises(psld.ArgumentError):
            engine.submit(0)
        broken = False
        with engine.submit(1, **options) as ticket:
            assert ticket.wait().done


def child(program):
    """Runs a program that says "ready", and what is done with it then."""
    head = f"import signal, threading, time, psld\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nMIXTURE = {MIXTURE!r}\n"
    return subprocess.Popen([sys.executable, "-c", head + program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_a_wait_and_not_the_request():
    program = """
model = psld.Model(MIXTURE, threads=1)
with psld.Engine(model) as engine, engine.submit(4, sampler="em", nfe=200000) as ticket:
    print("ready", flush=True)
    try:
        ticket.result()
    except KeyboardInterrupt:
        assert not ticket.wait(0).done and engine.stats["requests"] == 1
        print("interrupted", flush=True)
"""
    ran = child(program)
    try:
        assert ran.stdout.readline() == "ready\n"
        time.sleep(0.3)
        ran.send_signal(signal.SIGINT)
        out, _ = ran.communicate(timeout=60)
    finally:
        ran.kill()
        ran.wait()
    assert (out, ran.returncode) == ("interrupted\n", 0)


def test_a_program_that_ends_while_its_engine_works():
    program = """
calls = []
def network(z, t):
    calls.append(1)
    time.sleep(0.005)
    return z * 0
spec = {"format": 1, "process": {"kind": "vp"}, "data": {"shape": [2]}, "network": {"prediction": "epsilon"}}
model = psld.Model(network, spec=spec)
engine = psld.Engine(model)
tickets = [engine.submit(1, sampler="em", nfe=20000) for _ in range(3)]
while len(calls) < 3:
    time.sleep(0.001)
print("ended", flush=True)
"""
    ran = child(program)
    try:
        out, said = ran.communicate(timeout=60)
    finally:
        ran.kill()
        ran.wait()
    assert (out, said, ran.returncode) == ("ended\n", "", 0)
