"""Networks that are functions in Python."""

import os
import signal

import numpy as np
import pytest

import psld

VP = {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}
SPEC = {"format": 1, "process": VP, "data": {"shape": [2, 3]}, "network": {"prediction": "epsilon"}}
NORMAL = b"""{"psld.spec": {"format": 1, "process": {"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}, "data": {"shape": [2, 3]},
 "network": {"prediction": "epsilon"}}, "mixture": {"weights": [1], "means": [[0, 0, 0, 0, 0, 0]], "variances": [1]}}"""


def normal(z, t):
    """The exact network of unit normal data."""
    return z * np.sqrt(-np.expm1(-(0.1 * t + 0.5 * 19.9 * t * t)))[:, None, None]


def test_it_samples_as_the_library_s_own():
    with psld.Model(normal, spec=SPEC) as own, psld.Model(NORMAL) as exact:
        options = dict(sampler="heun", steps=5, seed=3, dtype="float64")
        a, b = (model.sample(4, **options) for model in (own, exact))
        assert a.shape == (4, 2, 3)
        np.testing.assert_allclose(a, b, rtol=1e-12)
        narrow = own.sample(4, **{**options, "dtype": "float32"})
        np.testing.assert_allclose(narrow, b, atol=1e-5)


def test_states_of_phase_space_have_more_channels():
    shapes = []

    def network(z, t):
        shapes.append((z.shape, t.shape))
        return z * 0

    with psld.Model(network, spec={**SPEC, "process": {"kind": "psld"}}) as model:
        model.sample(2, sampler="em", steps=1)
    assert shapes == [((2, 4, 3), (2,))] * 2


def test_labels_come_third():
    seen = []

    def network(z, t, y):
        seen.append(list(y))
        return z * 0

    spec = {**SPEC, "network": {"prediction": "epsilon", "label_input": "y", "classes": 5}}
    with psld.Model(network, spec=spec) as model:
        model.sample(2, sampler="euler", steps=1, denoise=False, labels=[4, 1])
        model.sample(1, sampler="euler", steps=1, denoise=False)
    assert seen == [[4, 1], [5]]


def test_what_it_raises_is_raised():
    def network(z, t):
        raise LookupError("no weights")

    with psld.Model(network, spec=SPEC) as model:
        with pytest.raises(LookupError, match="no weights"):
            model.sample(1)
        with model.start(1) as run, pytest.raises(LookupError):
            run.step()
    with psld.Model(lambda z, t: np.zeros(3), spec=SPEC) as model, pytest.raises(ValueError, match=r"expected \(1, 2, 3\)"):
        model.sample(1)
    with pytest.raises(psld.ModelError, match="spec_json"):
        psld.Model(normal)
    with pytest.raises(psld.ArgumentError, match="name"):
        psld.Model(NORMAL, name="x")


def test_its_name_is_part_of_its_hash_and_it_is_let_go():
    with psld.Model(normal, spec=SPEC) as a, psld.Model(normal, spec=SPEC, name="normal") as b:
        with psld.Model(normal, spec=SPEC, name="other") as other:
            assert a.info["hash"] == b.info["hash"] != other.info["hash"]
            assert len(psld._networks) == 3
    assert not psld._networks


def test_its_arrays_are_to_be_read():
    def network(z, t):
        with pytest.raises(ValueError, match="read-only"):
            z *= 0.5
        with pytest.raises(ValueError, match="read-only"):
            t[0] = 0
        return z * 0

    with psld.Model(network, spec=SPEC) as model:
        model.sample(1, sampler="em", steps=1)


@pytest.fixture
def ctrl_c():
    # What runs in the background may have inherited that Ctrl+C is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("how", ["step", "finish", "sample", "likelihood"])
def test_ctrl_c_while_it_computes(how):
    """A signal is looked at when the network is entered: it must neither be lost nor pass for an output."""
    calls = []

    def network(z, t):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return z * 0.1

    with psld.Model(network, spec=SPEC) as model, psld.Model(network, spec=SPEC) as same:
        if how in ("sample", "likelihood"):
            images = np.zeros((1, 2, 3))
            with pytest.raises(KeyboardInterrupt):
                model.sample(1, nfe=20) if how == "sample" else model.likelihood(images, nfe=20)
            return
        with model.start(1, sampler="euler", nfe=10) as run:
            with pytest.raises(KeyboardInterrupt):
                run.finish() if how == "finish" else [run.step() for _ in range(10)]
            assert 0 < run.progress.step < 10
            run.finish()
            assert (run.data == same.sample(1, sampler="euler", nfe=10)).all()
