"""How programs end: in whatever state the library is, with their own exit status and without a word of ours."""

import os
import signal
import subprocess
import sys
import time

import pytest

HEAD = """
import atexit, gc, os, sys, threading, time
import numpy as np
import psld
SPEC = {"format": 1, "process": {"kind": "vp"}, "data": {"shape": [2]}, "network": {"prediction": "x0"}}
MIXTURE, ONNX = "tests/data/capi/mixture.json", "models/cifar10-exact.onnx"
def network(z, t):
    return z * 0
calls = []
def slow(z, t):
    calls.append(1)
    time.sleep(0.005)
    return z * 0
def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)
def in_the_background(function, *arguments, **options):
    thread = threading.Thread(target=function, args=arguments, kwargs=options, daemon=True)
    thread.start()
    return thread
"""

# What they are to say, and to end with, where it is not ("", 0).
PROGRAMS = {
    "a lambda at the top": "model = psld.Model(lambda z, t: z * 0, spec=SPEC); model.sample(1, nfe=5)",
    "never called": "model = psld.Model(lambda z, t: z * 0, spec=SPEC)",
    "a bound method": """
class Net:
    def __call__(self, z, t): return z * 0
model = psld.Model(Net(), spec=SPEC); model.sample(1, nfe=5)""",
    "a cycle": """
class Net:
    def __init__(self): self.model = psld.Model(self.call, spec=SPEC)
    def call(self, z, t): return z * 0
net = Net(); net.model.sample(1, nfe=5); net.me = net""",
    "everything open": """
model = psld.Model(network, spec=SPEC); sampler = model.sampler(nfe=5); run = model.start(2, sampler=sampler); run.step()
engine = psld.Engine(model); ticket = engine.submit(1, nfe=5); ticket.result(); cancel = psld.Cancel(); other = psld.Model(MIXTURE)""",
    "as attributes of modules": """
model = psld.Model(network, spec=SPEC); psld.mine = model; sys.mine = model; os.mine = psld.Engine(model); np.mine = model.start(1)""",
    "in builtins": """
import builtins
builtins.model = psld.Model(network, spec=SPEC); builtins.engine = psld.Engine(builtins.model); builtins.engine.submit(1, nfe=9)""",
    "modules gone": """
model = psld.Model(network, spec=SPEC); engine = psld.Engine(model); model.sample(1, nfe=5)
for name in [name for name in sys.modules if name.startswith(("psld", "numpy", "ctypes"))]: del sys.modules[name]
del psld, np""",
    "an exception keeps its frames": (
        """
def main():
    model = psld.Model(network, spec=SPEC); run = model.start(1); engine = psld.Engine(model); engine.submit(1, nfe=1000)
    raise LookupError("as it goes")
main()""",
        ("LookupError: as it goes", 1),
    ),
    "a network that raises": (
        """
def broken(z, t): raise LookupError("no weights")
model = psld.Model(broken, spec=SPEC); model.sample(1)""",
        ("LookupError: no weights", 1),
    ),
    "sys.exit in a network": ("def leave(z, t): sys.exit(7)\nmodel = psld.Model(leave, spec=SPEC); model.sample(1)", ("", 7)),
    "sys.exit in a progress": ("model = psld.Model(MIXTURE); model.sample(1, progress=lambda p: sys.exit(7))", ("", 7)),
    "os._exit in a network": ("def leave(z, t): os._exit(7)\nmodel = psld.Model(leave, spec=SPEC); model.sample(1)", ("", 7)),
    "os._exit in an engine": (
        "def leave(z, t): os._exit(7)\nmodel = psld.Model(leave, spec=SPEC); psld.Engine(model).submit(1).result()",
        ("", 7),
    ),
    "sys.exit in an engine": (
        """
def leave(z, t): sys.exit(7)
model = psld.Model(leave, spec=SPEC); engine = psld.Engine(model)
try: engine.submit(1).result()
except psld.OnnxRuntimeError as e: assert "SystemExit: 7" in str(e)
sys.exit(8)""",
        ("", 8),
    ),
    "an engine that works": """
model = psld.Model(slow, spec=SPEC); engine = psld.Engine(model)
tickets = [engine.submit(1, nfe=9000) for _ in range(3)]; until(lambda: len(calls) > 3)""",
    "an engine that nobody holds but its ticket": """
model = psld.Model(slow, spec=SPEC); ticket = psld.Engine(model).submit(1, nfe=9000); until(lambda: len(calls) > 3)""",
    "an engine of the library's own network": """
engine = psld.Engine(psld.Model(MIXTURE)); ticket = engine.submit(50, sampler='em', nfe=9000); until(lambda: ticket.progress.nfe > 3)""",
    "a daemon's thread that samples": """
model = psld.Model(slow, spec=SPEC)
in_the_background(model.sample, 1, nfe=9000); until(lambda: len(calls) > 3)""",
    "daemon's threads that never stop": """
model = psld.Model(slow, spec=SPEC)
def again():
    while True:
        try: model.sample(1, nfe=50, progress=lambda p: None)
        except Exception: pass
for _ in range(4): in_the_background(again)
until(lambda: len(calls) > 30)""",
    "daemon's threads on the library's own network": """
model = psld.Model(MIXTURE)
def again():
    while True: model.sample(3, nfe=500)
for _ in range(3): in_the_background(again)
in_the_background(model.sample, 50, sampler='em', nfe=9000); time.sleep(0.3)""",
    "daemon's threads that step": """
model = psld.Model(slow, spec=SPEC); run = model.start(1, nfe=9000)
in_the_background(run.finish); in_the_background(model.likelihood, np.zeros((1, 2)), nfe=9000); until(lambda: len(calls) > 10)""",
    "daemon's threads that wait for tickets": """
model = psld.Model(slow, spec=SPEC); engine = psld.Engine(model); ticket = engine.submit(1, nfe=9000)
def wait():
    try: ticket.result()
    except psld.Cancelled: pass
for _ in range(4): in_the_background(wait)
until(lambda: len(calls) > 10)""",
    "a daemon's thread whose network does not return": """
def stuck(z, t):
    calls.append(1); time.sleep(1000)
model = psld.Model(stuck, spec=SPEC); in_the_background(model.sample, 1); until(lambda: calls)""",
    "a daemon's thread whose network goes on and on": """
def busy(z, t):
    calls.append(1)
    while True: sum(range(1000))
model = psld.Model(busy, spec=SPEC); in_the_background(model.sample, 1); until(lambda: calls)""",
    "an engine whose network does not return": """
def stuck(z, t):
    calls.append(1); time.sleep(1000)
model = psld.Model(stuck, spec=SPEC); engine = psld.Engine(model); ticket = engine.submit(1); until(lambda: calls)""",
    "a thread that is waited for": (
        """
model = psld.Model(slow, spec=SPEC)
threading.Thread(target=lambda: print(model.sample(1, nfe=30).shape)).start()""",
        ("(1, 2)", 0),
    ),
    "a pool": (
        """
from concurrent.futures import ThreadPoolExecutor
model = psld.Model(slow, spec=SPEC); pool = ThreadPoolExecutor(3)
futures = [pool.submit(model.sample, 1, nfe=20, seed=i) for i in range(9)]
atexit.register(lambda: print(sum(future.done() for future in futures)))""",
        ("9", 0),
    ),
    "who comes after us": (
        """
model = psld.Model(network, spec=SPEC)
@atexit.register
def late(): print(model.sample(1, nfe=5).shape)""",
        ("(1, 2)", 0),
    ),
    "garbage": """
for _ in range(20):
    class Net:
        def __init__(self): self.model = psld.Model(self.call, spec=SPEC); self.engine = psld.Engine(self.model)
        def call(self, z, t): return slow(z, t)
    net = Net(); net.ticket = net.engine.submit(1, nfe=5); net.run = net.model.start(1, nfe=9)
    net.ticket.result(); del net
    gc.collect()
assert psld.live_handles() < 20, psld.live_handles()""",
    "of ONNX Runtime": "model = psld.Model(ONNX, threads=2); model.sample(1, nfe=2, sampler='em'); run = model.start(1, nfe=2)",
    "an engine of ONNX Runtime": """
model = psld.Model(ONNX, threads=2); engine = psld.Engine(model); ticket = engine.submit(8, nfe=900)
until(lambda: ticket.progress.nfe > 1)""",
    "a daemon's thread in ONNX Runtime": """
model = psld.Model(ONNX, threads=2)
in_the_background(model.sample, 64, nfe=900); time.sleep(0.3)""",
    "warnings that are errors": "import warnings\nwarnings.simplefilter('error')\nmodel = psld.Model(network, spec=SPEC); model.sample(1)",
    "a fault handler": "import faulthandler\nfaulthandler.enable()\nmodel = psld.Model(network, spec=SPEC); psld.Engine(model).submit(3)",
}

# Registered before the package: runs after it has made its end.
EARLY = """
import atexit
@atexit.register
def late():
    print(model.sample(1, nfe=5).shape, run.finish().done)
    try:
        psld.Engine(model)
    except psld.RunError as e:
        print(e)
    thread.join(20)
    print(thread.is_alive())
""" + HEAD + """
model = psld.Model(network, spec=SPEC); run = model.start(1, nfe=5)
thread = in_the_background(psld.Model(slow, spec=SPEC).sample, 1, nfe=9000)
until(lambda: calls)
"""


def python(program, *options):
    return subprocess.run([sys.executable, *options, "-c", program], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_ends(name):
    program = PROGRAMS[name]
    program, (said, status) = program if isinstance(program, tuple) else (program, ("", 0))
    ran = python(HEAD + program)
    assert ran.returncode == status, (ran.returncode, ran.stdout, ran.stderr)
    last = (ran.stdout + ran.stderr).strip().splitlines()[-1:]
    assert last == ([said] if said else []), (ran.stdout, ran.stderr)


def test_exit_handlers_of_before():
    ran = python(EARLY)
    assert (ran.stdout, ran.stderr, ran.returncode) == (
        "(1, 2) True\nthe interpreter ends: no engine is started any more\nFalse\n", "", 0,
    )  # fmt: skip


def test_standard_input_and_modules(tmp_path):
    program = HEAD + "model = psld.Model(lambda z, t: z * 0, spec=SPEC); model.sample(1, nfe=5)\n"
    (tmp_path / "script.py").write_text(program)
    for command in ([str(tmp_path / "script.py")], ["-m", "script"], ["-"], ["-i", str(tmp_path / "script.py")]):
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
        ran = subprocess.run(
            [sys.executable, *command], input=program if command == ["-"] else "", capture_output=True, text=True,
            timeout=60, env=environment,
        )  # fmt: skip
        assert ran.returncode == 0, (command, ran.stderr)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, (-signal.SIGINT, 130)), (signal.SIGTERM, (-signal.SIGTERM,))])
def test_a_signal_ends_it(number, status):
    program = HEAD + """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
model = psld.Model(slow, spec=SPEC); engine = psld.Engine(model); engine.submit(1, nfe=9000)
in_the_background(model.sample, 1, nfe=9000)
print("ready", flush=True)
model.sample(1, nfe=9000)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as ran:
        assert ran.stdout.readline() == "ready\n"
        time.sleep(0.2)
        ran.send_signal(number)
        _, said = ran.communicate(timeout=60)
    assert ran.returncode in status, said
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT) and "Fatal" not in said


def test_a_cycle_is_collected():
    import gc
    import weakref

    import psld

    from test_network import SPEC, normal

    class Net:
        def __init__(self):
            self.model = psld.Model(self.call, spec=SPEC)
            self.run = self.model.start(1, nfe=5)
            self.engine = psld.Engine(self.model)
            self.ticket = self.engine.submit(2, nfe=5)

        def call(self, z, t):
            return normal(z, t)

    net, before = Net(), psld.live_handles()
    net.run.finish()
    net.ticket.result()
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None and psld.live_handles() < before


def test_the_network_lives_as_long_as_a_run():
    """Whatever was closed before it."""
    import gc

    import numpy as np
    import psld

    from test_network import SPEC, normal

    model = psld.Model(lambda z, t: normal(z, t), spec=SPEC)
    whole = model.sample(2, nfe=9, seed=3)
    run, ticket = model.start(2, nfe=9, seed=3), psld.Engine(model).submit(2, nfe=9, seed=3)
    model.close()
    del model
    gc.collect()
    run.finish()
    assert (run.data == whole).all()
    np.testing.assert_allclose(ticket.result(), whole, rtol=1e-6)


def test_a_subinterpreter():
    """As web servers have them. Numpy, which allows it at best with a warning, has the say."""
    pytest.importorskip("_xxsubinterpreters")
    program = """
import _xxsubinterpreters as interpreters
one = interpreters.create()
try: interpreters.run_string(one, '''
import warnings
warnings.simplefilter("ignore")
''' + HEAD + '''
import pickle
for what in (lambda: psld.Model(network, spec=SPEC), lambda: mixture.sample(1, progress=lambda p: None)):
    mixture = psld.Model(MIXTURE)
    try: what()
    except psld.ArgumentError as e: assert "sub-interpreter" in str(e)
    else: raise AssertionError
assert mixture.sample(1, sampler=pickle.loads(pickle.dumps(mixture.sampler(nfe=5)))).shape == (1, 3, 2, 2)
engine = psld.Engine(mixture); ticket = engine.submit(3, sampler="em", nfe=9000)
until(lambda: ticket.progress.nfe > 5)
''')
except interpreters.RunFailedError as e: assert "ImportError" in str(e), e
if ENDED: interpreters.destroy(one)
"""
    for ended in (True, False):
        ran = python(f"HEAD, ENDED = {HEAD!r}, {ended}\n" + program)
        assert (ran.stdout, ran.returncode) == ("", 0) and "Fatal" not in ran.stderr, ran.stderr


def test_under_pytest(tmp_path):
    """Whose modules and fixtures hold what they made until the end, and whose frames do after a failure."""
    (tmp_path / "test_it.py").write_text(
        HEAD.replace('"tests/data', f'"{os.getcwd()}/tests/data')
        + """
import pytest
model = psld.Model(lambda z, t: z * 0, spec=SPEC)
@pytest.fixture(scope="session")
def engine():
    yield psld.Engine(psld.Model(slow, spec=SPEC))
def test_one(engine):
    test_one.ticket = engine.submit(1, nfe=9000); until(lambda: calls)
    assert model.sample(1).shape == (1, 2)
@pytest.mark.xfail(strict=True)
def test_two(engine):
    mine, run = psld.Model(network, spec=SPEC), model.start(1)
    in_the_background(psld.Model(slow, spec=SPEC).sample, 1, nfe=9000)
    run.step(); raise LookupError
"""
    )
    command = [sys.executable, "-X", "dev", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path)
    assert ran.returncode == 0 and ran.stderr == "", (ran.stdout, ran.stderr)
