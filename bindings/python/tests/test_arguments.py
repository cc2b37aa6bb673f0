"""What is given in Python arrives in C as it was meant, or is refused by its name, with the value as it was given."""

import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import psld
from psld import _arguments

from test_network import SPEC, normal

MIXTURE = "tests/data/capi/mixture.json"
NOT_WHOLE = [1.5, float("nan"), float("inf"), "3", b"3", [1], (2,), {}, None, 1j, True, np.bool_(True), np.float32(0.5), object()]


@pytest.fixture
def vp():
    with psld.Model(normal, spec=SPEC) as model:
        yield model


def refused(name, value, call, *also):
    """``name`` first, and the value as it was given."""
    with pytest.raises(psld.ArgumentError) as failed:
        call()
    said = failed.value.args[0]
    assert said.startswith(f"{name} = "), said
    if not isinstance(value, np.ndarray):
        assert said.startswith(f"{name} = {_arguments._short(value)}: expected "), said
    assert "u64" not in said and "u32" not in said and failed.value.status == 100
    for part in also:
        assert part in str(failed.value), str(failed.value)


def test_whole_numbers(model):
    compiled = model.sampler("em", nfe=5)
    run = model.start(2, sampler=compiled)
    engine = psld.Engine(model)
    image = np.zeros((1, 3, 2, 2))
    calls = {
        "seed": [
            (64, lambda v: model.sample(1, sampler=compiled, seed=v)), (64, lambda v: model.sample(1, nfe=5, seed=v)),
            (64, lambda v: model.start(1, nfe=5, seed=v).close()), (64, lambda v: engine.submit(1, nfe=5, seed=v).close()),
            (64, lambda v: engine.submit(1, sampler=compiled, seed=v).close()), (64, lambda v: psld.noise(v)),
            (64, lambda v: model.sampler("em", nfe=3, seed=v).close()), (64, lambda v: model.likelihood(image, nfe=5, seed=v)),
        ],
        "n": [
            (63, lambda v: model.sample(v, sampler=compiled)), (63, lambda v: model.start(v, sampler=compiled)),
            (63, lambda v: engine.submit(v, sampler=compiled)), (63, lambda v: model.memory(v)),
        ],
        "batch": [
            (63, lambda v: model.sample(1, sampler=compiled, batch=v)), (63, lambda v: model.start(1, nfe=3, batch=v).close()),
            (63, lambda v: model.likelihood(image, nfe=5, batch=v)),
        ],
        "max_memory": [
            (64, lambda v: model.sample(1, sampler=compiled, max_memory=v)),
            (64, lambda v: model.start(1, nfe=3, max_memory=v).close()),
            (64, lambda v: engine.submit(1, nfe=3, max_memory=v).close()),
        ],
        "tag": [
            (64, lambda v: model.sample(1, sampler=compiled, tag=v)), (64, lambda v: model.start(1, nfe=3, tag=v).close()),
            (64, lambda v: engine.submit(1, nfe=3, tag=v).close()),
        ],
        "priority": [(31, lambda v: engine.submit(1, nfe=3, priority=v).close())],
        "probes": [(31, lambda v: model.likelihood(image, nfe=5, probes=v))],
        "max_steps": [(31, lambda v: run.step(v))],
        "device": [(31, lambda v: psld.Model(MIXTURE, device=v).close())],
        "threads": [(31, lambda v: psld.Model(MIXTURE, threads=v).close())],
        "concurrent_calls": [(31, lambda v: psld.Model(MIXTURE, concurrent_calls=v).close())],
        "max_batch": [(31, lambda v: psld.Engine(model, max_batch=v).close())],
        "queue": [(31, lambda v: psld.Engine(model, queue=v).close())],
        "draw": [(32, lambda v: psld.noise(1, draw=v))],
        "first": [(64, lambda v: psld.noise(1, first=v))],
        "shape": [(63, lambda v: psld.noise(1, shape=(v,)))],
        "steps": [(32, lambda v: model.sampler("em", steps=v).close()), (32, lambda v: model.sample(1, sampler="em", steps=v))],
        "nfe": [(32, lambda v: model.sampler("em", nfe=v).close()), (32, lambda v: model.probe(nfe=v))],
        "order": [(32, lambda v: model.sampler("dpmpp", nfe=9, order=v).close())],
        "max_nfe": [(32, lambda v: model.sampler("rk45", max_nfe=v).close())],
    }
    for name, each in calls.items():
        for bits, call in each:
            wrong = [2**bits, 2**64, 2**64 + 1, -(2**70), float(2**bits), 10**400, *NOT_WHOLE]
            if bits in (32, 64):
                wrong.append(-1)
            optional = name in ("seed", "steps", "nfe", "order", "max_nfe")
            for value in wrong:
                if value is None and optional or isinstance(value, (list, tuple)) and name == "shape":
                    continue
                refused(name, value, lambda: call(value))
    # What is meant is taken, whatever type it has.
    whole = model.sample(3, sampler=compiled, seed=2)
    for three, two in ((np.int8(3), np.uint64(2)), (3.0, np.float32(2.0)), (np.array(3), np.array(2))):
        assert (model.sample(three, sampler=compiled, seed=two, batch=three) == whole).all()
    assert (model.sample(1, sampler=compiled, seed=2**64 - 1) != model.sample(1, sampler=compiled, seed=0)).any()
    run.close()
    for wrong in (0, -1):
        refused("n", wrong, lambda: model.sample(wrong))
        with pytest.raises(psld.ArgumentError, match="device|threads|max_batch|batch"):
            model.sample(1, batch=-1)
    # Seeds of compiled samplers: what is not given is the sampler's, and a 0 that is given is 0.
    seeded = model.sampler("em", nfe=5, seed=7)
    assert (model.sample(1, sampler=seeded) == model.sample(1, sampler=compiled, seed=7)).all()
    assert (model.sample(1, sampler=seeded, seed=0) == model.sample(1, sampler=compiled)).all()
    engine.close()
    for held in (compiled, seeded):
        held.close()


def test_other_types(model, vp):
    image = np.zeros((1, 3, 2, 2))
    calls = {
        "deadline": (lambda v: model.sample(1, deadline=v), ["1", None, [1], True, 1j, -1, -0.5, float("nan")]),
        "guidance_rescale": (lambda v: model.sampler("em", guidance_rescale=v), ["1", None, [1.0]]),
        "guidance_interval": (lambda v: model.sampler("em", guidance_interval=v), ["ab", 1, (1,), (0, 1, 2)]),
        "previews": (lambda v: model.start(1, previews=v), ["no", 2, None, 0.5]),
        "anytime": (lambda v: model.sample(1, anytime=v), ["no", 2, None]),
        "dequantise": (lambda v: model.likelihood(image, dequantise=v), ["no", 2]),
        "denoise": (lambda v: model.sample(1, denoise=v), ["no", 2, 0.5]),
        "published": (lambda v: model.sample(1, sampler="ddim", published=v), ["no", 2]),
        "t_start": (lambda v: model.sample(1, t_start=v), ["1", float("nan"), float("inf"), [1]]),
        "t_end": (lambda v: model.sample(1, t_end=v), ["1", float("nan"), True]),
        "clip": (lambda v: model.sample(1, clip=v), ["yes", 0.995, 1, [1], {"percentile": float("nan")}]),
        "eta": (lambda v: model.sample(1, sampler="gddim", eta=v), ["1", float("nan")]),
        "sampler": (lambda v: model.sample(1, sampler=v), [5, b"em", ["em"], psld, "a\0b"]),
        "matrix": (lambda v: model.sample(1, sampler="conjugate", matrix=v), [5, np.eye(2)]),
        "time_grid": (lambda v: model.sample(1, time_grid=v), [5, [1.0, float("nan")], [[1.0]], ["a"], "a\0b", 0.5]),
        "inpaint": (lambda v: model.sample(1, inpaint=v), [image, (image,), 3]),
        "restore": (lambda v: model.sampler("dpmpp", restore=v), [3, "a\0b", {"noise": float("nan")}, {"operator": object()}]),
        "guidance": (lambda v: model.sampler("em", guidance=v), [3, b"cfg", "cf\0g"]),
        "cancel": (lambda v: model.sample(1, cancel=v), [3, True, model]),
        "guide": (lambda v: model.sample(1, guide=v), [3, "grad.onnx"]),
        "progress": (lambda v: model.sample(1, progress=v), [3, "yes", 0]),
        "output": (lambda v: model.sample(1, output=v), ["both", 0, None, ["data"]]),
        "what": (lambda v: run.read(v), ["both", 0, None]),
        "purpose": (lambda v: psld.noise(1, v), ["both", 0]),
        "dtype": (lambda v: model.sample(1, dtype=v), ["nonsense", 5]),
        "saved": (lambda v: model.load_run(v), [5, "text", None]),
        "plan": (lambda v: model.sampler_of_plan(v), [5, [1], "a\0b"]),
        "model": (lambda v: psld.Model(v), [5, None, ["a.onnx"], 1.5]),
        "spec": (lambda v: psld.Model(normal, spec=v), [5, ["a"], "a\0b", {"format": float("nan")}, {"format": object()}]),
        "name": (lambda v: psld.Model(normal, spec=SPEC, name=v), [5, b"x", "a\0b", "\ud800"]),
        "providers": (lambda v: psld.Model(MIXTURE, providers=v), [5, "a\0b", b"cpu"]),
        "max_wait": (lambda v: psld.Engine(model, max_wait=v), ["1", None, -1, float("nan")]),
        "timeout": (lambda v: ticket.wait(v), ["1", -1, float("nan"), [1]]),
        "path": (lambda v: psld.load_runtime(v), [5, "a\0b", b"/a\0b"]),
    }
    run, engine = model.start(1), psld.Engine(model)
    ticket = engine.submit(1)
    for name, (call, wrong) in calls.items():
        for value in wrong:
            refused(name, value, lambda: call(value))
    with pytest.raises(psld.ArgumentError, match="^dtype = .int32.: expected float32 or float64"):
        run.read(dtype=np.int32)
    refused("model", 3, lambda: psld.Engine(3))
    for held in (ticket, engine, run):
        held.close()


@pytest.mark.parametrize("path", ["a\0b.onnx", "\0", b"a\0b.json", "models/cifar10-exact.onnx\0.json"])
def test_paths_with_a_nul(path):
    given = os.fsdecode(path) if isinstance(path, bytes) and not path.lstrip().startswith(b"{") else path
    with pytest.raises(psld.ArgumentError, match="a path, which holds no NUL"):
        psld.Model(given)


def test_missing_files(model, tmp_path):
    for call in (
        lambda: psld.Model(tmp_path / "none.onnx"), lambda: psld.Model(tmp_path / "none.json"),
        lambda: psld.Model(str(tmp_path / "no" / "folder.onnx")), lambda: model.sample(1, time_grid=tmp_path / "none.json"),
    ):  # fmt: skip
        with pytest.raises(FileNotFoundError) as failed:
            call()
        assert isinstance(failed.value, psld.FileMissing) and isinstance(failed.value, psld.ArgumentError)
        assert isinstance(failed.value, psld.PsldError) and failed.value.errno == 2 and str(tmp_path) in str(failed.value)
        assert repr(failed.value).startswith("FileMissing(")
    program = """
import psld
for call in (lambda: psld.load_runtime("/nowhere/libonnxruntime.so"), lambda: psld.Model("models/cifar10-exact.onnx")):
    try: call()
    except FileNotFoundError as e: assert isinstance(e, psld.OnnxRuntimeMissing) and isinstance(e, psld.OnnxRuntimeError), e
    else: raise AssertionError
"""
    environment = {**os.environ, "PSLD_ONNXRUNTIME": "/nowhere/libonnxruntime.so"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_hints_know_the_function_s_own_arguments(model):
    engine = psld.Engine(model)
    for function in (model.sample, model.start, engine.submit):
        for wrong, right in (
            ("label", "labels"), ("step", "steps"), ("n_samples", "n"), ("num_steps", "steps"), ("num_inference_steps", "nfe"),
            ("guidance_scale", "scales"), ("scale", "scales"), ("Seed", "seed"), ("maxmemory", "max_memory"), ("nfes", "nfe"),
            ("preview", "previews" if function != model.sample else None), ("batch_size", "batch" if function != engine.submit else None),
            ("priorty", "priority" if function == engine.submit else None), ("timegrid", "time_grid"), ("samples", "n"),
            ("random_seed", "seed"), ("mask", "inpaint"), ("image", "from_image"), ("dead_line", "deadline"),
        ):  # fmt: skip
            with pytest.raises(psld.ArgumentError, match=f"unknown field `{wrong}`") as failed:
                function(1, **{wrong: 3})
            if right is not None:
                assert failed.value.hint == f"did you mean `{right}`?", (wrong, failed.value.hint)
    with pytest.raises(psld.ArgumentError) as failed:
        model.sample(1, qqqqqqqq=1)
    for known in (*list(inspect.signature(model.sample).parameters)[:-1], "nfe", "time_grid", "lambda_s"):
        assert f" {known}" in failed.value.hint
    for function in (lambda **o: model.likelihood(np.zeros((1, 3, 2, 2)), **o), lambda **o: model.load_run(b"", **o), model.sampler):
        with pytest.raises(psld.ArgumentError, match="unknown field `odrer`") as failed:
            function(odrer=3)
        assert failed.value.hint == "did you mean `order`?"
    engine.close()


def test_the_options_are_the_library_s(model):
    with pytest.raises(psld.ArgumentError) as failed:
        psld._abi.call(
            psld.lib.psld_sampler_create, model._open,
            psld.c.byref(_with_options(b'{"qqqqqqqq": 1}')), psld.c.byref(psld.c.c_void_p()),
        )  # fmt: skip
    known = set(failed.value.hint.replace("known: ", "").split(", ")) - {"kind"}
    assert known == set(_arguments._OPTIONS)


def _with_options(text):
    fields = psld._abi.struct(psld._abi.SamplerOptions, "sampler_options")
    fields.options_json = text
    return fields


@pytest.mark.parametrize("limits", [[-1.0, 1.0], [0.0, 1.0], [0.0, 255.0]])
def test_levels_of_eight_bits_are_mapped(limits):
    """As those of PNG files are, wherever images and measurements are taken."""
    low, high = limits
    spec = {**SPEC, "data": {"shape": [1, 4, 4], "range": limits}}
    model = psld.Model(lambda z, t: z * 0, spec=spec)
    levels = (np.arange(16, dtype=np.uint8) * 17).reshape(1, 1, 4, 4)
    values = (low + (high - low) * (levels / 255.0)).astype(np.float32)
    known = np.ones((1, 1, 4, 4))
    options = dict(sampler="ddim", nfe=4)
    for mask in (known, known > 0, known.astype(np.uint8), known.astype(int), [[[[1] * 4] * 4]]):
        assert np.abs(model.sample(1, inpaint=(levels, mask), **options) - values).max() <= 1e-6 * max(abs(low), high)
    restore = {"operator": {"kind": "mask"}}
    engine = psld.Engine(model)
    for how in (
        dict(inpaint=(levels, known)), dict(from_image=levels, t_start=0.01), dict(from_image=levels, encode=True, sampler="ddim"),
        dict(restore=restore, measurement=(levels, known), sampler="dpmpp"), dict(from_image=levels[::1, :, ::-1], t_start=0.5),
        dict(restore={"operator": {"kind": "average", "factor": 2}}, measurement=levels[..., ::2, ::2], sampler="dpmpp"),
    ):  # fmt: skip
        as_values = {
            name: _mapped(value, low, high) if name in ("from_image", "measurement", "inpaint") else value for name, value in how.items()
        }
        wanted = model.sample(2, **{**options, **as_values})
        assert (model.sample(2, **{**options, **how}) == wanted).all() and np.isfinite(wanted).all()
        with model.start(2, **{**options, **how}) as run:
            run.finish()
            assert (run.data == wanted).all()
        with engine.submit(2, **{**options, **how}) as ticket:
            assert np.allclose(ticket.result(), wanted, atol=1e-5 * high)
        assert model.memory(2, **{name: value for name, value in {**options, **how}.items() if name != "from_image"}) > 0
    bits, _ = model.likelihood(levels, nfe=4)
    assert (bits == model.likelihood(values, nfe=4)[0]).all()
    assert [image.tobytes() for image in model.images(levels)] == [levels.tobytes()] == [i.tobytes() for i in model.images(values)]
    engine.close()


def _mapped(value, low, high):
    if isinstance(value, tuple):
        return (_mapped(value[0], low, high), value[1])
    return (low + (high - low) * value.astype(np.float64) / 255.0).astype(np.float32)


class Tensor:
    """What says by itself that it is no array."""

    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_arrays_that_are_no_values(model):
    good = np.zeros((1, 3, 2, 2))
    levels = "float in the data's range"
    engine, run = psld.Engine(model), model.start(1)
    images = {
        "from_image": lambda v: model.sample(1, from_image=v, t_start=0.5),
        "images": lambda v: model.likelihood(v),
        "inpaint": lambda v: model.sample(1, inpaint=(v, good)),
        "measurement": lambda v: model.sample(
            1, sampler="dpmpp", restore={"operator": {"kind": "average", "factor": 2}}, measurement=v
        ),
    }
    states = {
        "init": lambda v: model.sample(1, init=v), "noise": lambda v: engine.submit(1, noise=v),
        "latents": lambda v: model.interpolate(v, [0.5]),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, call in {**images, **states}.items():
            integers = [np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint64, bool, *([np.uint8] if name in states else [])]
            for kind in (*integers, complex, object, "U3", "S3", "M8[s]"):
                refused(name, good.astype(kind), lambda: call(good.astype(kind)), str(np.dtype(kind)))
            refused(name, np.zeros(1, int), lambda: call([[0, 1]]), "int64", *([levels] if name in images else []))
            for odd in ("text", None, {}, [[1.0], [2.0, 3.0]], Tensor(), np.ma.masked_equal([1.0, 2.0], 2.0)):
                if odd is None and name != "images" and name != "latents" and name != "inpaint":
                    continue
                with pytest.raises(psld.ArgumentError, match=f"^{name}"):
                    call(odd)
        for mask in (good + 1j, good.astype("U3"), good.astype(object), "x", np.full(good.shape, 255, np.uint8), -np.ones(good.shape, int)):
            with pytest.raises(psld.ArgumentError, match="^inpaint: the mask"):
                model.sample(1, inpaint=(good, mask))
        for name, call in {
            "labels": lambda v: model.sample(1, labels=v), "scales": lambda v: model.sample(1, scales=v),
            "at": lambda v: model.interpolate(np.zeros((2, 6, 2, 2)), v), "indices": lambda v: run.gather(v),
            "seeds": lambda v: run.gather([0], seeds=v),
        }.items():  # fmt: skip
            for wrong in (["1"], "1", [1j], [object()], [[1.0], [2.0, 3.0]]):
                with pytest.raises(psld.ArgumentError, match=f"^{name}"):
                    call(wrong)
        for name in ("labels", "indices", "seeds"):
            for wrong in ([0.5], [float("nan")], [2**64], [2.0**64], [-(2**64)], [10**30]):
                with pytest.raises(psld.ArgumentError, match=f"^{name}"):
                    run.gather(wrong) if name == "indices" else run.gather([0], seeds=wrong) if name == "seeds" else model.sample(
                        1, labels=wrong
                    )
    engine.close()
    run.close()


def test_values_are_kept_whatever_their_layout(model):
    rng = np.random.default_rng(0)
    init = rng.standard_normal((2, 6, 2, 2))
    wanted = model.sample(2, sampler="euler", steps=3, init=init, dtype="float64")
    narrow = model.sample(2, sampler="euler", steps=3, init=init.astype("f4"), dtype="float64")
    assert (wanted != narrow).any()
    for exact in (
        init.astype(">f8"), np.asfortranarray(init), init.astype(np.longdouble), init[::-1][::-1], np.repeat(init, 2, 0)[::2],
        init.tolist(), np.ma.array(init),
    ):  # fmt: skip
        assert (model.sample(2, sampler="euler", steps=3, init=exact, dtype="float64") == wanted).all()
    for same in (init.astype(">f4"), np.asfortranarray(init.astype("f4"))):
        assert (model.sample(2, sampler="euler", steps=3, init=same, dtype="float64") == narrow).all()
    image = init[:, :3].astype(">f8")
    assert (model.likelihood(image, nfe=5)[0] == model.likelihood(image.astype("f8"), nfe=5)[0]).all()
    labels = np.array([1, 2])
    with psld.Model("tests/data/models/labelled.json") as labelled:
        wanted = labelled.sample(2, nfe=5, labels=labels)
        for same in (labels.astype(">i8"), labels.astype("u1"), labels.astype(">u2"), [1.0, 2.0], labels[::-1][::-1]):
            assert (labelled.sample(2, nfe=5, labels=same) == wanted).all()


def test_what_a_network_returns():
    def returns(value):
        return psld.Model(lambda z, t: value(z), spec=SPEC)

    for value in (lambda z: z * 1j, lambda z: z.astype("U3"), lambda z: z.astype(object), lambda z: z > 0):
        with returns(value) as model, pytest.raises(ValueError, match="expected floating-point numbers"):
            model.sample(1)
    for value in (lambda z: z.tolist(), lambda z: z.astype(">f4"), lambda z: np.zeros(z.shape, int), lambda z: z.astype("f2")):
        with returns(value) as model:
            assert np.isfinite(model.sample(1)).all()


def test_what_objects_say_of_themselves(model, vp):
    assert repr(model) == "<psld.Model: 'tests/data/capi/mixture.json', samples of [3, 2, 2]>"
    assert repr(vp) == "<psld.Model: normal, samples of [2, 3]>"
    with psld.Model(b" " + Path(MIXTURE).read_bytes()) as other:
        assert re.fullmatch(r"<psld.Model: \d+ bytes, samples of \[3, 2, 2\]>", repr(other))
    with model.sampler("em", nfe=5) as sampler, model.sampler("rk45") as adaptive:
        assert (repr(sampler), repr(adaptive)) == ("<psld.Sampler: em, 5 network calls>", "<psld.Sampler: rk45, adaptive>")
    assert repr(sampler) == "<psld.Sampler: closed>"
    with model.start(4, sampler="em", nfe=9) as run:
        run.step(3)
        assert repr(run) == "<psld.Run: 4 samples, step 3 of 9>"
        run.finish()
        assert repr(run) == "<psld.Run: 4 samples, step 9 of 9, done>"
    with psld.Cancel() as cancel:
        assert repr(cancel) == "<psld.Cancel: not cancelled>"
        cancel.cancel()
        assert repr(cancel) == "<psld.Cancel: cancelled>"
    with psld.Engine(model) as engine, engine.submit(1, sampler="em", nfe=5) as ticket:
        ticket.wait()
        assert repr(ticket) == f"<psld.Ticket: request {ticket.id}, step 5 of 5, done>"
        assert repr(engine) == f"<psld.Engine: 0 requests of {model!r}>"
    for closed in (run, cancel, engine, ticket):
        assert repr(closed) == str(closed) == f"<psld.{type(closed).__name__}: closed>"
    failing = psld.Model(lambda z, t: repr(run_of[0]) and 1 / 0, spec=SPEC)
    run_of = [failing.start(1)]
    with pytest.raises(ZeroDivisionError):
        run_of[0].step()
    assert repr(run_of[0]).startswith("<psld.Run: ")
    run_of[0].close()
    with pytest.raises(psld.ArgumentError) as failed:
        model.sample(0)
    assert repr(failed.value).startswith("ArgumentError('n = 0: expected")


def test_names_of_the_classes():
    for name in psld.__all__:
        public = getattr(psld, name)
        if inspect.isclass(public):
            assert f"{public.__module__}.{public.__qualname__}" == f"psld.{name}"
    ran = subprocess.run([sys.executable, "-c", "import psld; psld.noise(-1)"], capture_output=True, text=True)
    assert ran.stderr.splitlines()[-1] == "psld.ArgumentError: seed = -1: expected a whole number, 0 to 18446744073709551615"


def test_a_ticket_keeps_its_engine(model):
    ticket = psld.Engine(model).submit(2, sampler="em", nfe=30, seed=4)
    assert (ticket.result(timeout=60) == model.sample(2, sampler="em", nfe=30, seed=4)).all()
    ticket.close()
    live = psld.live_handles()
    tickets = [psld.Engine(psld.Model(MIXTURE)).submit(1, nfe=9) for _ in range(3)]
    assert [ticket.result().shape for ticket in tickets] == [(1, 3, 2, 2)] * 3
    del tickets
    assert psld.live_handles() == live


def test_the_default_sampler(model):
    with model.sampler() as default, model.sampler("auto", nfe=30) as auto:
        assert default.hash == auto.hash and default.nfe == 30
    assert (model.sample(2) == model.sample(2, sampler="auto", nfe=30)).all()
    assert (model.sample(2, nfe=9) == model.sample(2, sampler="auto", nfe=9)).all()
    with model.start(2, steps=9) as run, model.start(2, sampler="auto", steps=9) as same:
        run.finish(), same.finish()
        assert (run.data == same.data).all()
        saved = run.save()
    with model.load_run(saved, steps=9) as run:
        assert run.progress.done
    with model.sampler(encode=True) as encoder, model.sampler("unipc", encode=True) as unipc:
        assert encoder.hash == unipc.hash
