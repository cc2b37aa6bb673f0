"""From data to samples and their Frechet distance, through the programs and the C ABI as a user has them.

    python3 training/tests/end_to_end/run.py PSLD_TRAINING PSLD

Trains a small network and a classifier on images made here, exports them and the network's first weights, verifies the
models in ONNX Runtime, samples with a C program that links the libpsld beside PSLD, and compares: by features of the
classifier, samples of the trained network must be near the data and far nearer than those of the first weights. Needs a
C compiler and PSLD_ONNXRUNTIME; no packages.
"""

import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

SIDE, TRAIN, TEST, SAMPLES = 12, 3000, 1000, 400
REPOSITORY = pathlib.Path(__file__).resolve().parents[3]

RECIPE = """
[data]
kind = "npy"
path = "train.npy"
labels_path = "labels.npy"
labels = true
[process]
kind = "psld"
gamma = 0.01
nu = 4.01
[net]
nf = 16
ch_mult = [1, 2]
num_res_blocks = 1
attn_resolutions = []
dropout = 0.0
[train]
batch = 32
lr = 2e-3
warmup = 20
cooldown = 0.6
ema = 0.98
ema_warmup = true
times = "stratified"
[output]
log = 50
checkpoint = 10000
sample = 0
samples = 1
[output.sampler]
nfe = 2
"""


def image(generator, label):
    """A disc or a frame, of any brightness, somewhere."""
    x, y, size = (generator.uniform(low, high) for low, high in ((4, 7), (4, 7), (2.5, 4)))
    level = generator.randrange(120, 256)

    def inside(i, j):
        away = (i - x) ** 2 + (j - y) ** 2 if label == 0 else max(abs(i - x), abs(j - y)) ** 2
        return away <= size**2 and (label == 0 or away > (size - 1.5) ** 2)

    return bytes(level if inside(i, j) else 0 for j in range(SIDE) for i in range(SIDE))


def npy(path, kind, shape, data):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(11 + len(header)) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data)


def main():
    training, psld = (pathlib.Path(path).resolve() for path in sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        at = pathlib.Path(folder)

        def run(*command):
            print("$", *(str(word) for word in command), flush=True)
            return subprocess.run(command, cwd=at, check=True, stdout=subprocess.PIPE, text=True).stdout

        generator = random.Random(0)
        for name, count in (("train", TRAIN), ("test", TEST)):
            images = b"".join(image(generator, i % 2) for i in range(count))
            npy(at / f"{name}.npy", "|u1", (count, 1, SIDE, SIDE), images)
        npy(at / "labels.npy", "|u1", (TRAIN,), bytes(i % 2 for i in range(TRAIN)))
        (at / "recipe.toml").write_text(RECIPE)
        for name, steps, *changes in (
            ("classifier", 150, "net.kind=classifier"),
            ("first", 1, "train.lr=1e-9", "net.init_scale=1"),
            ("trained", 500),
        ):
            changes = [word for change in (f"train.steps={steps}", *changes) for word in ("--set", change)]
            run(training, "--threads", "2", "train", "recipe.toml", "--out", f"runs/{name}", *changes)
            run(training, "export", f"runs/{name}", "-o", f"{name}.onnx")
            print(run(psld, "verify", f"{name}.onnx"))
        run(training, "export", "runs/classifier", "--gradient", "-o", "gradient.onnx")
        print(run(psld, "verify", "gradient.onnx"))

        source = pathlib.Path(__file__).with_name("sample.c")
        library = psld.parent
        run("cc", "-std=c11", f"-I{REPOSITORY}/include", source, f"-L{library}", "-lpsld", f"-Wl,-rpath,{library}",
            "-o", "sample")
        distances = {}
        for name in ("first", "trained"):
            run(at / "sample", f"{name}.onnx", f"{name}.npy", str(SAMPLES))
            report = run(psld, "fd", f"{name}.npy", "--features", "classifier.onnx", "--train", "train.npy",
                         "--test", "test.npy", "--resamples", "50", "--json", "--quiet")
            distance = json.loads(report)["figures"]["frechet_distance"]
            distances[name], floor = distance["value"], distance["floor"]["value"]
            print(f"{name}: Frechet distance {distance['value']:.4g}, floor {floor:.4g}", flush=True)
        # That of first weights is without bound; 60 floors were measured after training.
        assert distances["trained"] < min(0.1 * distances["first"], 300 * floor), (distances, floor)


if __name__ == "__main__":
    main()
