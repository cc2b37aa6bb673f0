#!/usr/bin/env bash
# The figures of the README's "Conditioning" on the bundled network: how near encoded images come back, and likelihoods.
#
#     scripts/conditioning.sh PSLD [IMAGES.npy]
#
# PSLD is the program. IMAGES.npy holds test images of Fashion-MNIST (`psld-training data npy`), of which the first 100 are
# taken; without it likelihoods are left out.
set -euo pipefail
psld=$(realpath "$1") images=${2:+$(realpath "$2")}
model=$(realpath "$(dirname "$0")/../models/fashion-small.onnx")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv && venv/bin/pip install -q numpy
# With the classes that they were made of, on both ways.
of=(--label 0-9 --quiet)
"$psld" sample "$model" -n 10 "${of[@]}" --out x.npy
for way in "100 3" "50 2" "50 3"; do
  read -r nfe order <<< "$way"
  "$psld" encode "$model" x.npy --nfe "$nfe" "${of[@]}" --out z.npy
  "$psld" sample "$model" --init z.npy --sampler unipc --order "$order" --nfe "$nfe" "${of[@]}" --out back.npy
  venv/bin/python -c "import numpy as np; rms = np.sqrt(np.mean((np.load('x.npy') - np.load('back.npy')) ** 2))
print(f'$nfe calls each way, decoded by unipc of order $order: {rms:.5f}')"
done

if [ -n "$images" ]; then
  venv/bin/python -c "import numpy as np, sys; np.save('first.npy', np.load(sys.argv[1])[:100])" "$images"
  for nfe in 60 100 200; do
    "$psld" likelihood "$model" first.npy --dequantise --nfe "$nfe" --quiet --out bits.npy
    venv/bin/python -c "import numpy as np; bits = np.sort(np.load('bits.npy'))
print('  the ten likeliest %.2f to %.2f, the ten least likely %.2f to %.2f' % (bits[0], bits[9], bits[-10], bits[-1]))"
  done
fi
