"""How well guidance reaches the class that is asked for, on the trained networks in models/. Prints a table: the share of
samples that an independently trained classifier assigns to the class that was asked for, and their Frechet distance.

    target/venv/bin/python benches/guidance.py target/release/psld [--train train.npy --test test.npy] [--picture FILE.png]

`make venv` makes the environment; PSLD_ONNXRUNTIME names ONNX Runtime's library. The Frechet distance needs images, which
`psld-training data npy training/recipes/fashion-small.toml -o train.npy` writes (with `--test`, those held back).
"""

import argparse
import json
import pathlib
import statistics
import struct
import subprocess
import tempfile
import zlib

import numpy as np
import onnxruntime

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
MODEL, GUIDE, JUDGE = (
    REPOSITORY / "models" / f"fashion-{name}.onnx" for name in ("small", "classifier-grad", "classifier-b")
)
CLASSES, NO_CLASS = 10, 10


def judged(images):
    """The class that the judge sees: at t = 0.001, about the mean of the images' states."""
    session = onnxruntime.InferenceSession(str(JUDGE), providers=["CPUExecutionProvider"])
    spec = json.loads(session.get_modelmeta().custom_metadata_map["psld.spec"])["process"]
    gamma, nu, beta, t = spec["gamma"], spec["nu"], spec.get("beta_max", 8.0), 0.001
    drift = -0.5 * beta * t * np.array([[gamma, -((nu - gamma) ** 2) / 4], [1, nu]])
    mean = (np.eye(2) + drift + drift @ drift / 2)[:, 0].astype(np.float32)
    states = np.concatenate([mean[0] * images, mean[1] * images], axis=1)
    times = np.full(len(states), t, np.float32)
    return session.run(["logits"], {"z": states, "t": times})[0].argmax(axis=1)


def write_png(path, pixels):
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    )


def batched(psld, at):
    """What classifier-free guidance costs over the same evaluations without: the ratio of the times of sampling."""

    def seconds(n, *more):
        report = psld("sample", MODEL, "-n", str(n), "--batch", str(n), "--label", "1", "--sampler", "euler", "--steps", "4",
                      *more, "--out", at / "timed.npy", "--json")  # fmt: skip
        taken = json.loads(report)["seconds"]
        return taken["network"] + taken["solver"]

    return statistics.median(seconds(32, "--scale", "2") / seconds(64) for _ in range(9))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("psld", type=pathlib.Path)
    parser.add_argument("--per-class", type=int, default=20)
    parser.add_argument("--sampler", default="ancestral")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--classifier", type=float, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--free", type=float, nargs="*", default=[0, 1, 2])
    parser.add_argument("--train", type=pathlib.Path)
    parser.add_argument("--test", type=pathlib.Path)
    parser.add_argument("--picture", type=pathlib.Path, help="a sample of each class, without guidance and at each scale of the classifier")
    arguments = parser.parse_args()
    n = CLASSES * arguments.per_class
    # Samples take the classes in turn.
    asked = np.arange(n) % CLASSES
    settings = [("unguided", str(NO_CLASS), None)]
    settings += [("classifier", "0-9", scale) for scale in arguments.classifier]
    settings += [("cfg", "0-9", scale) for scale in arguments.free]
    rows = []
    print(f"{n} samples each, {arguments.sampler}, {arguments.steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)

        def psld(*command):
            return subprocess.run([arguments.psld, *command, "--quiet"], check=True, stdout=subprocess.PIPE).stdout

        compare = arguments.train and arguments.test
        if compare:
            psld("fd", arguments.train, "--features", JUDGE, "--make-stats", at / "train.npz")
            np.save(at / "test.npy", np.load(arguments.test, mmap_mode="r")[:n])
        for kind, label, scale in settings:
            config = {"sampler": {"kind": arguments.sampler, "steps": arguments.steps}}
            if scale is not None:
                config["guidance"] = {"kind": kind, "scale": scale}
                if kind == "classifier":
                    config["guidance"]["model"] = str(GUIDE)
            (at / "config.json").write_text(json.dumps(config))
            report = json.loads(psld("sample", MODEL, "--config", at / "config.json", "-n", str(n), "--label", label,
                                     "--out", at / "samples.npy", "--json"))  # fmt: skip
            images = np.load(at / "samples.npy")
            share = float((judged(images) == asked).mean())
            name = kind if scale is None else f"{kind} {scale:g}"
            line = f"{name:14} calls {report['nfe']:3}  of the class {share:.3f}"
            if compare:
                compared = psld("fd", at / "samples.npy", "--features", JUDGE, "--stats", at / "train.npz",
                                "--test", at / "test.npy", "--json")  # fmt: skip
                distance = json.loads(compared)["figures"]["frechet_distance"]
                line += "  Frechet distance {value:.2e} ({low:.2e} to {high:.2e})".format(**distance)
                line += f", of held-back images {distance['floor']['value']:.2e}"
            print(line, flush=True)
            if kind != "cfg":
                rows.append(np.concatenate(list(images[:CLASSES, 0]), axis=1))
        print("a guided call of 32 samples against a plain one of 64, both of 64 images: "
              "{:.3f} times the time (median of 9 rounds in turn; goal 1.05)".format(batched(psld, at)))  # fmt: skip
    if arguments.picture:
        pixels = np.concatenate(rows, axis=0)
        write_png(arguments.picture, np.clip(np.rint((pixels + 1) * 127.5), 0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
