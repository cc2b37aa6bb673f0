"""Exported networks in ONNX Runtime beside libtorch's eager evaluation of the same weights.

    python3 training/benches/network.py SPEED_EXAMPLE [calls]

SPEED_EXAMPLE is the program `network_speed` (`cargo build --release -p psld-training --features torch --example
network_speed`). Needs the packages numpy and onnxruntime. Two threads; the two sides take turns, each in a process of
its own. Printed are the least milliseconds of a call: what a quiet machine would show. `cpu` is the least CPU time of
a call with one thread, which other programs on the machine disturb far less. Last comes the share of each operator in
the exported network's time.
"""

import collections
import json
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


def load(path, batch, threads, profile=None):
    import numpy
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    shape = [batch, *session.get_inputs()[0].shape[1:]]
    inputs = {
        "z": numpy.random.default_rng(0).standard_normal(shape, numpy.float32),
        "t": numpy.full(batch, 0.5, numpy.float32),
    }
    return session, inputs


def operators(path, batch, calls, threads):
    """The share of each operator in the time of all, largest first, as text."""
    session, inputs = load(path, batch, threads, profile=path)
    for _ in range(calls):
        session.run(None, inputs)
    with open(session.end_profiling()) as file:
        events = [event for event in json.load(file) if event["name"].endswith("_kernel_time")]
    times = collections.Counter()
    for event in events:
        times[event["args"]["op_name"]] += event["dur"]
    total = times.total()
    return ", ".join(f"{name} {100 * time / total:.0f} %" for name, time in times.most_common() if time > 0.01 * total)


def onnx(path, batch, calls, threads):
    """The same, in this process."""
    session, inputs = load(path, batch, threads)
    times = []
    for _ in range(calls):
        wall, cpu = time.perf_counter(), time.process_time()
        session.run(None, inputs)
        times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    return [min(column) for column in zip(*times)]


def ours(*arguments):
    """What this program prints with these arguments, in a process of its own."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    if sys.argv[1] in ("--onnx", "--operators"):
        path, batch, calls, threads = sys.argv[2], *map(int, sys.argv[3:])
        if sys.argv[1] == "--onnx":
            print(*onnx(path, batch, calls, threads))
        else:
            print(operators(path, batch, calls, threads))
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
                        output = ours("--onnx", path, batch, calls, threads)
                        sides[1].append(float(output.split()[column]))
                    eager, exported = map(min, sides)
                    row += [f"{eager:.1f}", f"{exported:.1f}", f"{eager / exported:.2f}"]
                print(("{:16}" + "{:>10}" * 7).format(network, batch, *row), flush=True)
        for network in NETWORKS:
            for batch in (1, 8):
                shares = ours("--operators", f"{folder}/{network}.onnx", batch, calls, 2)
                print(f"{network}, batch {batch}: {shares.strip()}", flush=True)


if __name__ == "__main__":
    main()
