"""diffusers' own tests of schedulers, where DIFFUSERS_TESTS names the file: tests/schedulers/test_schedulers.py of its
repository, which no wheel has. Run by scripts/test-python-torch.sh.

What a scheduler is told there are its class, its configuration, and the number of steps. Nothing is left out.
"""

import importlib.util
import os
import sys
import types
import unittest

import pytest

from psld.diffusers import Scheduler

if not os.environ.get("DIFFUSERS_TESTS"):
    pytest.skip("DIFFUSERS_TESTS names no file of diffusers' tests", allow_module_level=True)


class Logged:
    """What a logger of diffusers says meanwhile."""

    def __init__(self, logger):
        self.logger, self.out = logger, ""

    def __enter__(self):
        import logging

        self.handler = logging.Handler()
        self.handler.emit = lambda record: setattr(self, "out", self.out + record.getMessage() + "\n")
        self.logger.addHandler(self.handler)
        return self

    def __exit__(self, *_):
        self.logger.removeHandler(self.handler)


def load(path):
    """The file, in a package that has of its neighbours what it imports."""
    skipped = unittest.skip("of the hub")
    helpers = {"torch_device": "cpu", "CaptureLogger": Logged, "TOKEN": "", "USER": "", "is_staging_test": skipped}
    for name in ("theirs", "theirs.schedulers", "theirs.others"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    for name in ("theirs.testing_utils", "theirs.others.test_utils"):
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(helpers)
    spec = importlib.util.spec_from_file_location("theirs.schedulers.test_schedulers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


Common = load(os.environ["DIFFUSERS_TESTS"]).SchedulerCommonTest


class Ours(Common):
    scheduler_classes = (Scheduler,)
    forward_default_kwargs = (("num_inference_steps", 25),)
    config = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}

    def get_scheduler_config(self, **more):
        return {**self.config, **more}

    def test_over_configs(self):
        for more in (
            {"num_train_timesteps": 100},
            {"beta_start": 0.001, "beta_end": 0.2},
            {"beta_schedule": "squaredcos_cap_v2"},
            {"prediction_type": "v_prediction"},
            {"clip_sample": True, "sampler": "unipc"},
            {"thresholding": True, "sampler": "dpmpp"},
        ):
            self.check_over_configs(**more)

    def test_over_forward(self):
        for steps in (2, 10, 50):
            self.check_over_forward(num_inference_steps=steps)
        for time in (1, 500, 999):
            self.check_over_forward(time_step=time)


class OursForDdpm(Ours):
    config = {**Ours.config, "variance_type": "fixed_small", "clip_sample": True}


class OursForDpmSolver(Ours):
    config = {
        **Ours.config, "solver_order": 2, "thresholding": False, "sample_max_value": 1.0, "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint", "lower_order_final": False, "euler_at_final": False, "lambda_min_clipped": -float("inf"),
        "variance_type": None, "final_sigmas_type": "sigma_min",
    }  # fmt: skip


class OursAlongFlow(Ours):
    config = {"num_train_timesteps": 1000, "shift": 3.0}

    # It has no betas.
    test_trained_betas = None

    def test_over_configs(self):
        self.check_over_configs(shift=1.0, sampler="euler")


# The class that they are made of is no test.
del Common
