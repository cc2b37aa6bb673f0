"""Exported networks in ONNX Runtime beside libtorch's eager evaluation of the same weights.

    python3 training/benches/network.py SPEED_EXAMPLE [calls]

SPEED_EXAMPLE is the program `network_speed` (`cargo build --release -p psld-training --features torch --example
network_speed`). Needs the packages numpy and onnxruntime. Two threads; the two sides take turns, each in a process of
its own. Printed are the least milliseconds of a call: what a quiet machine would show. `cpu` is the least CPU time of
a call with one thread, which other programs on the machine disturb far less.
"""

import subprocess
import sys
import tempfile
import time

NETWORKS = ["small", "cifar10-ddpmpp"]


def torch(program, network, batch, calls, threads):
    """Least wall and CPU milliseconds of a call."""
    arguments = [program, "time", network, str(batch), str(calls), str(threads)]
    lines = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split("\n")
    return [min(column) for column in zip(*(map(float, line.split()) for line in lines if line))]


def onnx(path, batch, calls, threads):
    """The same, in this process."""
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = [batch, *session.get_inputs()[0].shape[1:]]
    inputs = {
        "z": numpy.random.default_rng(0).standard_normal(shape, numpy.float32),
        "t": numpy.full(batch, 0.5, numpy.float32),
    }
    times = []
    for _ in range(calls):
        wall, cpu = time.perf_counter(), time.process_time()
        session.run(None, inputs)
        times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return [min(column) for column in zip(*times)]


def main():
    if sys.argv[1] == "--onnx":
        path, batch, calls, threads = sys.argv[2], *map(int, sys.argv[3:])
        print(*onnx(path, batch, calls, threads))
        return
    program, calls = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
    header = ("network", "batch", "torch ms", "onnx ms", "ratio", "torch cpu", "onnx cpu", "ratio")
    print(("{:16}" + "{:>10}" * 7).format(*header))
    with tempfile.TemporaryDirectory() as folder:
        for network in NETWORKS:
            path = f"{folder}/{network}.onnx"
            subprocess.run([program, "export", network, path], check=True)
            for batch in (1, 8):
                row = []
                for threads, column in ((2, 0), (1, 1)):
                    sides = [[], []]
                    for _ in range(3):
                        sides[0].append(torch(program, network, batch, calls, threads)[column])
                        arguments = [sys.executable, __file__, "--onnx", path, batch, calls, threads]
                        output = subprocess.run([*map(str, arguments)], capture_output=True, text=True, check=True)
                        sides[1].append(float(output.stdout.split()[column]))
                    eager, exported = map(min, sides)
                    row += [f"{eager:.1f}", f"{exported:.1f}", f"{eager / exported:.2f}"]
                print(("{:16}" + "{:>10}" * 7).format(network, batch, *row), flush=True)


if __name__ == "__main__":
    main()
