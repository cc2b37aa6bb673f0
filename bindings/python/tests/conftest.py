import gc
import os
from pathlib import Path

import pytest

import psld

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session", autouse=True)
def in_the_repository():
    os.chdir(ROOT)


@pytest.fixture
def model():
    with psld.Model("tests/data/capi/mixture.json") as model:
        yield model


@pytest.fixture(autouse=True)
def nothing_is_leaked():
    before = psld.live_handles()
    yield
    # A failure that was expected keeps its frames, and what they hold, in a cycle.
    gc.collect()
    assert psld.live_handles() == before
