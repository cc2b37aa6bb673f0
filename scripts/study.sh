#!/usr/bin/env bash
# Measures the samplers at few network calls: the figures of docs/results/few-calls.md, and how far `auto` and the probe are from
# the best (OUT/ratios.all).
#
#     scripts/study.sh PSLD OUT [STATS.npz]
#
# PSLD is the program, OUT a folder for the studies, which an interrupted run goes on with. Writes OUT/study.csv (all of
# them) and OUT/study.png (the trained network). With STATS.npz, features of the Fashion-MNIST training set made by `psld fd --make-stats`
# with models/fashion-classifier.onnx, also Frechet distances. An hour on one core of a shared machine, and with STATS.npz two
# more.
set -euo pipefail
psld=$1 out=$2 stats=${3:-}
models=$(dirname "$0")/../models
mkdir -p "$out"

# The wide mixture of docs/methods.md, in one dimension; and 32 overlapping components of standard deviation 0.3 in 3072 dimensions,
# whose means lie in a random space of 8: N(0, 1.5^2) standard deviations along each of them.
python3 - "$out" <<'PYTHON'
import json, math, random, sys

def write(name, shape, weights, means, variances, kind="psld"):
    spec = {"format": 1, "process": {"kind": kind}, "data": {"shape": shape}, "network": {}}
    mixture = {"weights": weights, "means": means, "variances": variances}
    with open(f"{sys.argv[1]}/{name}.json", "w") as out:
        json.dump({"psld.spec": spec, "mixture": mixture}, out)

write("wide", [1], [0.3, 0.5, 0.2], [[-1.2], [0.3], [1.5]], [0.25, 0.16, 0.09])

rng = random.Random(7)
D, K, R, STD = 3072, 32, 8, 0.3
basis = [[rng.gauss(0, 1) for _ in range(D)] for _ in range(R)]
basis = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in basis]
means = []
for _ in range(K):
    a = [rng.gauss(0, 1.5 * STD) for _ in range(R)]
    means.append([round(sum(c * row[i] for c, row in zip(a, basis)), 6) for i in range(D)])
for name, kind in (("low-rank", "psld"), ("low-rank-cld", "cld"), ("low-rank-vp", "vp")):
    write(name, [3, 32, 32], [1.0] * K, means, [STD * STD] * K, kind)
PYTHON

# Plans fitted to the network, on seeds of their own.
tune() { # PLAN MODEL ARGUMENTS
  local plan=$out/$1.json model=$2
  shift 2
  [ -f "$plan" ] || "$psld" tune "$model" --seed 100000 --threads 1 -o "$plan" "$@"
}
corrected=(--sampler unipc --order 3 --grid order2.5)
tune tuned-wide-20 "$out/wide.json" "${corrected[@]}" --nfe 20 --samples 128
tune tuned-low-20 "$out/low-rank.json" "${corrected[@]}" --nfe 20 --samples 24 --held-out 16 --evaluations 60
few=(--samples 40 --held-out 40 --evaluations 50 --label 0,1,2,3,4,5,6,7,8,9)
tune tuned-8 "$models/fashion-small.onnx" "${corrected[@]}" --nfe 8 "${few[@]}"
tune tuned-15 "$models/fashion-small.onnx" "${corrected[@]}" --nfe 15 "${few[@]}"
tune tuned-8-dpmpp "$models/fashion-small.onnx" --sampler dpmpp --nfe 8 "${few[@]}"
plans=(--plan "$out/tuned-8.json" --plan "$out/tuned-15.json")

samplers=auto
for grid in order2.5 order2 log_snr; do samplers+=,unipc:order=3:grid=$grid; done
samplers+=,unipc:order=2:grid=order2,dpmpp:order=3:grid=order2,dpmpp:order=3:grid=log_snr,gddim:order=3:grid=order2
samplers+=,deis:order=3:grid=order2,euler:grid=uniform
study() { # NAME MODEL ARGUMENTS
  local name=$1 model=$2
  shift 2
  "$psld" study "$model" --threads 1 --quiet --out "$out/$name" "$@" | tee "$out/$name.txt"
}
study wide "$out/wide.json" --samplers "$samplers,rk45:rtol=4e-3:atol=4e-3" --plan "$out/tuned-wide-20.json"
study low-rank "$out/low-rank.json" -n 64 --samplers "$samplers,rk45:rtol=3e-3:atol=3e-3" \
  --plan "$out/tuned-low-20.json"
# What `auto` is held against on paths other than PSLD's.
wider=auto
for grid in order2.5 order2 log_snr quadratic; do
  for sampler in unipc:order=3 unipc:order=2 dpmpp:order=3 dpmpp:order=2 gddim:order=3; do wider+=,$sampler:grid=$grid; done
done
for kind in cld vp; do
  study low-rank-$kind "$out/low-rank-$kind.json" -n 32 --samplers "$wider,deis:order=3:grid=order2"
done
study 64-images "$models/cifar10-exact.onnx" --nfe 5,8,10,15,20,30 --samplers "$samplers,rk45:rtol=1e-2:atol=1e-2"
study fashion "$models/fashion-small.onnx" -n 100 --label 0-9 --reference unipc:order=3:grid=order2:steps=149 \
  --samplers "$samplers,unipc:order=1:grid=order2,sde_dpmpp:grid=order2.5,sa_solver:grid=order2.5" "${plans[@]}"
# How `auto` and what a probe chooses do beside the best of every deterministic sampler, order and grid: the small networks of
# models/study/, each along its own path and others, and mixtures.
ratios() { # NAME MODEL ARGUMENTS
  study "$@" --samplers auto --ratios --resamples 0 --reference rk45:rtol=1e-6:atol=1e-6
}
for network in fashion-vp digits-ddpm mnist-edm cifar-flow actions-cosine reaches-ddpm checkerboard-flow; do
  for path in own vp flow edm ve psld; do
    spec=$out/$network-$path.json
    "$psld" info "$models/study/$network.onnx" --json | python3 -c '
import json, sys
spec, path = json.load(sys.stdin)["spec"], sys.argv[1]
if path != "own":
    spec["network"]["process"], spec["process"] = spec["process"], {"kind": path}
print(json.dumps(spec))' $path > "$spec"
    ratios "$network-$path" "$models/study/$network.onnx" --spec "$spec" -n 64
  done
done
for kind in psld vp flow edm ve; do
  sed "s/\"kind\": \"psld\"/\"kind\": \"$kind\"/" "$out/wide.json" > "$out/wide-$kind.json"
  ratios "wide-$kind" "$out/wide-$kind.json"
done
# Five sets of starts, none of which a plan was tuned on; an hour on a quiet core.
if [ -n "$stats" ]; then
  for set in 1 2 3 4 5; do
    study fashion-features-$set "$models/fashion-small.onnx" -n 2000 --seed $((1000000 * set)) --label 0-9 --nfe 10,15,20 \
      --samplers unipc:order=3:grid=order2.5 --plan "$out/tuned-8-dpmpp.json" --plan "$out/tuned-8.json" \
      --reference dpmpp:order=3:grid=order2:steps=199 --features "$models/fashion-classifier.onnx" --stats "$stats"
  done
fi

printf '\nauto and probe beside the best, by RMS (median)\n'
for text in "$out"/*.txt; do
  sed -n "/the best of all listed samplers/,\$s/^ /$(basename "$text" .txt) /p" "$text"
done | tee "$out/ratios.all"

first=1
for name in wide low-rank low-rank-{cld,vp} 64-images fashion fashion-features-{1..5}; do
  csv=$out/$name/study.csv
  [ -f "$csv" ] || continue
  if [ $first = 1 ]; then sed -n '1s/^/model,/p' "$csv"; first=0; fi
  sed "1d;s/^/$name,/" "$csv"
done > "$out/study.csv"
cp "$out/fashion/study.png" "$out/study.png"
