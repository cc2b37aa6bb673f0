#!/usr/bin/env python3
"""Golden normals, transcribed from the definition (docs of src/noise) and from the Philox paper alone.

Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.
Needs nothing but Python; writes tests/data/noise/golden.json:

    python3 tests/scripts/noise_reference.py
"""

import json
import math
from pathlib import Path

PURPOSES = {"prior": 0, "solver": 1, "inpaint": 2, "probe": 3}
LAST_BLOCK = 2**34 - 8


def philox(counter, key):
    left0, right0, left1, right1 = counter[1], counter[0], counter[3], counter[2]
    for _ in range(10):
        high0, low0 = divmod(right0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(right1 * 0xCD9E8D57, 2**32)
        right0, left0 = high1 ^ left0 ^ key[0], low1
        right1, left1 = high0 ^ left1 ^ key[1], low0
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return [right0, left0, right1, left1]


assert [f"{w:08x}" for w in philox([0] * 4, [0] * 2)] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


def normal(seed, purpose, draw, element):
    words = philox([element // 4, draw, PURPOSES[purpose], 0], [seed % 2**32, seed // 2**32])
    u = [(w + 0.5) / 2**32 for w in words]
    pair = element % 4 // 2
    turn = math.sin if element % 2 else math.cos
    return math.sqrt(-2 * math.log(u[2 * pair])) * turn(2 * math.pi * u[2 * pair + 1])


def case(seed, purpose, draw, first_element, length):
    elements = range(first_element, first_element + length)
    return {
        "seed": seed,
        "purpose": purpose,
        "draw": draw,
        "first_element": first_element,
        "normals": [normal(seed, purpose, draw, e) for e in elements],
    }


cases = [case(seed, "solver", 0, 0, 64) for seed in (0, 1, 7, 2**32, 0x0123456789ABCDEF, 2**64 - 1)]
cases += [case(7, purpose, 3, 0, 16) for purpose in PURPOSES]
cases += [case(7, "prior", draw, 0, 16) for draw in (1, 2, 999, 2**32 - 1)]
cases += [case(2**64 - 1, "probe", 2**32 - 1, first, 8) for first in (1, 2, 3, 6143, 2**20, 2**32 - 3, LAST_BLOCK)]

path = Path(__file__).parents[1] / "data" / "noise" / "golden.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
