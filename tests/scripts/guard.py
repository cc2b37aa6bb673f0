"""Hashes of what some 250 command lines of `psld` write: samples, plans, encodings, evaluations. For changes that must not change them.

    python3 tests/scripts/guard.py PSLD write    # tests/guard.json anew
    python3 tests/scripts/guard.py PSLD check    # says what differs, and fails

PSLD is the program. Samples of ONNX networks are the same to the bit on one machine only: write and check on the same one.
"""

import hashlib
import itertools
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "guard.json"
SAMPLERS = ["em", "sscs", "ancestral", "euler", "heun", "gddim", "deis", "exp_heun", "dpmpp", "unipc", "sde_dpmpp", "sa_solver"]
SAMPLERS += ["conjugate", "auto", "rk45", "rvv", "roba", "cvv", "ddim"]
GRIDS = ["uniform", "quadratic", "order2", "order2.5", "log_snr", "logistic", "karras"]
KINDS = ["psld", "cld", "vp", "ve", "edm", "flow", "ddpm"]


def write_models(folder):
    mixture = {"weights": [0.5, 0.3, 0.2], "means": [[0.5] * 16, [-0.4, 0.2] * 8, [0.1, -0.6, 0.3, 0.0] * 4]}
    mixture["variances"] = [0.04, 0.02, 0.05]
    for kind in KINDS:
        data = {"shape": [1, 4, 4], "range": [-1.0, 1.0]}
        spec = {"format": 1, "process": {"kind": kind}, "data": data, "network": {}}
        (folder / f"{kind}.json").write_text(json.dumps({"psld.spec": spec, "mixture": mixture}))
    for kind in ("psld", "flow", "edm"):
        spec = json.loads((folder / f"{kind}.json").read_text())["psld.spec"]
        spec["network"]["process"], spec["process"] = spec["process"], {"kind": "cld" if kind == "psld" else "psld"}
        if kind != "psld":
            (folder / f"{kind}-driven.json").write_text(json.dumps({"psld.spec": spec, "mixture": mixture}))


def lines():
    """Name: arguments, of which OUT and the models stand in the working folder."""
    few = ["-n", "3", "--seed", "5", "--quiet", "-o", "OUT.npy"]
    for kind, sampler in itertools.product(KINDS, SAMPLERS):
        calls = ["--rtol", "1e-3"] if sampler == "rk45" else ["--nfe", "9"]
        yield ["sample", f"{kind}.json", "--sampler", sampler, *calls, *few]
    for kind, grid in itertools.product(KINDS, GRIDS):
        yield ["plan", f"{kind}.json", "--sampler", "unipc", "--steps", "7", "--grid", grid]
    for kind, sampler, order in itertools.product(["psld", "vp"], ["unipc", "dpmpp", "gddim", "deis"], "123"):
        yield ["plan", f"{kind}.json", "--sampler", sampler, "--order", order, "--steps", "6"]
    for sampler in ("auto", "dpmpp", "em", "rk45", "sa_solver"):
        for kind in ("flow-driven", "edm-driven"):
            calls = ["--rtol", "1e-3"] if sampler == "rk45" else ["--nfe", "9"]
            yield ["sample", f"{kind}.json", "--sampler", sampler, *calls, *few]
        guided = ["--label", "0,1,2", "--scale", "3"]
        fashion = ["sample", "fashion-small.onnx", "--sampler", sampler, "--threads", "1", *few]
        calls = ["--rtol", "1e-2"] if sampler == "rk45" else ["--nfe", "8"]
        yield [*fashion, *calls, "--label", "0,1,2"]
        yield [*fashion, *calls, *guided]
        yield [*fashion, *calls, *guided, "--clip"]
        yield [*fashion, *calls, *guided, "--output", "state"]
        known = ["--inpaint-image", "image.npy", "--inpaint-mask", "mask.npy"]
        for kind in ("psld", "vp"):
            if sampler != "rk45":
                yield ["sample", f"{kind}.json", "--sampler", sampler, "--nfe", "9", *known, *few]
                yield ["sample", f"{kind}.json", "--sampler", sampler, "--nfe", "9", *known, "--inpaint-resample", "2", *few]
                restore = ["--restore", "average:2", "--measurement", "small.npy", "--measurement-noise", "0.05"]
                yield ["sample", f"{kind}.json", "--sampler", sampler, "--nfe", "9", *restore, *few]
            yield ["sample", f"{kind}.json", "--sampler", sampler, *calls, "--clip=0.95", *few]
            yield ["sample", f"{kind}.json", "--sampler", sampler, *calls, "--state", "f64", "--output", "state", *few]
            yield ["sample", f"{kind}.json", "--sampler", sampler, *calls, "--from-image", "image.npy", "--t-start", "0.4", *few]
    for kind in KINDS:
        yield ["encode", f"{kind}.json", "image.npy", "--nfe", "20", "--quiet", "-o", "OUT.npy"]
        yield ["likelihood", f"{kind}.json", "image.npy", "--nfe", "20", "--quiet", "-o", "OUT.npy"]
        yield ["info", f"{kind}.json", "--json"]
        yield ["sample", f"{kind}.json", "--no-denoise", "--sampler", "em", "--steps", "5", *few]
    for kind in ("vp", "psld"):
        yield ["tune", f"{kind}.json", "--probe", "--nfe", "6", "--quiet", "-o", "OUT.json"]
    yield ["samplers", "--json"]
    yield ["samplers", "--why"]


def run(psld, folder, line):
    for old in folder.glob("OUT.*"):
        old.unlink()
    done = subprocess.run([psld, *line], cwd=folder, capture_output=True)
    digest = hashlib.sha256(bytes([done.returncode]))
    out = sorted(folder.glob("OUT.*"))
    for part in [path.read_bytes() for path in out] or [done.stdout if done.returncode == 0 else done.stderr]:
        digest.update(part)
    return digest.hexdigest()[:16], done.returncode


def main():
    psld, command = str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2]
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        write_models(folder)
        (folder / "fashion-small.onnx").symlink_to(ROOT / "models" / "fashion-small.onnx")
        for name, shape in (("image", [1, 1, 4, 4]), ("mask", [1, 1, 4, 4]), ("small", [1, 1, 2, 2])):
            count = shape[2] * shape[3]
            values = [((i * 7) % 5 - 2) / 2.5 if name != "mask" else float(i % 3 > 0) for i in range(count)]
            header = str({"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}).ljust(117) + "\n"
            raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{count}f", *values)
            (folder / f"{name}.npy").write_bytes(raw)
        found = {" ".join(line): run(psld, folder, line) for line in lines()}
    failed = [line for line, (_, code) in found.items() if code]
    print(f"{len(found)} command lines, {len(failed)} of them refused")
    found = {line: digest for line, (digest, _) in found.items()}
    if command == "write":
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        print("\n".join(failed))
        return
    known = json.loads(FILE.read_text())
    differing = [line for line in {**known, **found} if known.get(line) != found.get(line)]
    print("\n".join(differing))
    sys.exit(bool(differing))


main()
