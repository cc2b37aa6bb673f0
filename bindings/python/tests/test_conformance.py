"""``tests/conformance.json``: the numbers that every language gets."""

import json
from pathlib import Path

import numpy as np
import pytest

import psld


def fnv1a(data: bytes) -> str:
    hash = 0xCBF29CE484222325
    for byte in data:
        hash = (hash ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{hash:016x}"


FILE = json.loads((Path(__file__).resolve().parents[3] / "tests/conformance.json").read_text())


@pytest.mark.parametrize("case", FILE["cases"], ids=lambda case: json.dumps(case["sampler"]))
def test_conformance(case):
    options = {"sampler": "em", **case["sampler"]}
    if "status" in case:
        with pytest.raises(psld.PsldError) as failed:
            with psld.Model(case["model"]) as model:
                model.sample(case["n"], **options)
        assert failed.value.status == case["status"]
        # The package refuses n = 0 itself, before it makes an array of that size.
        assert failed.value.args[0] == case["message"] or case["n"] == 0
        return
    options["seed"] = options.get("seed", case["seed"])
    dtype = {"f32": "float32", "f64": "float64"}[case["precision"]]
    with psld.Model(case["model"]) as model:
        out = model.sample(case["n"], output=case["output"], dtype=dtype, **options)
    if "hash" in case:
        assert fnv1a(out.tobytes()) == case["hash"]
    else:
        np.testing.assert_allclose(
            out.ravel() / np.maximum(1, np.abs(case["values"])),
            case["values"] / np.maximum(1, np.abs(case["values"])),
            rtol=0,
            atol=FILE["tolerance"],
        )
