#!/usr/bin/env bash
# The figures of docs/guide/conditioning.md and editing.md on the bundled networks: how near encoded images come back, likelihoods, and the picture
# of restored images (written to restoration.png in the folder where it is called).
#
#     scripts/conditioning.sh PSLD [IMAGES.npy]
#
# PSLD is the program. IMAGES.npy holds test images of Fashion-MNIST (`psld-training data npy`), of which the first 100 are
# taken; without it likelihoods and the picture are left out.
set -euo pipefail
psld=$(realpath "$1") images=${2:+$(realpath "$2")}
models=$(realpath "$(dirname "$0")/../models")
model=$models/fashion-small.onnx here=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv && venv/bin/pip install -q numpy pillow
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

"$psld" sample "$models/cifar10-exact.onnx" -n 200 --sampler sscs --seed 900 --quiet --out x.npy
for way in "gddim 2" "unipc 3"; do
  read -r sampler order <<< "$way"
  how=(--sampler "$sampler" --order "$order" --nfe 50 --quiet)
  "$psld" encode "$models/cifar10-exact.onnx" x.npy "${how[@]}" --out z.npy
  "$psld" sample "$models/cifar10-exact.onnx" --init z.npy "${how[@]}" --out back.npy
  venv/bin/python -c "import numpy as np; off = np.sqrt(np.mean((np.load('x.npy') - np.load('back.npy')) ** 2, axis=(1, 2, 3)))
print(f'cifar10-exact, 50 calls each way, $sampler of order $order: {np.sqrt(np.mean(off ** 2)):.5f}, {np.mean(off > 0.05):.3f} elsewhere')"
done

if [ -n "$images" ]; then
  venv/bin/python -c "import numpy as np, sys; np.save('first.npy', np.load(sys.argv[1])[:100])" "$images"
  for nfe in 60 100 200; do
    "$psld" likelihood "$model" first.npy --dequantise --nfe "$nfe" --quiet --out bits.npy
    venv/bin/python -c "import numpy as np; bits = np.sort(np.load('bits.npy'))
print('  the ten likeliest %.2f to %.2f, the ten least likely %.2f to %.2f' % (bits[0], bits[9], bits[-10], bits[-1]))"
  done

  venv/bin/python -c "import numpy as np
np.save('x.npy', np.load('first.npy')[:10])
np.save('mask.npy', np.random.default_rng(0).random((1, 1, 28, 28)) < 0.5)"
  restored() { # NAME OPERATOR NOISE ARGUMENTS
    "$psld" measure "$model" x.npy --restore "$2" --measurement-noise "$3" --out "$1-y.npy"
    "$psld" sample "$model" --restore "$2" --measurement "$1-y.npy" --measurement-noise "$3" --sampler ancestral --nfe 100 \
      --quiet --out "$1-x.npy" "${@:4}"
  }
  restored average average:4 0.05
  restored blur blur:2 0.05
  restored mask mask 0.2 --measurement-mask mask.npy
  venv/bin/python -c "import numpy as np
from PIL import Image
load = lambda name: np.load(name + '.npy')[:, 0]
rows = [load('x'), load('average-y').repeat(4, 1).repeat(4, 2), load('average-x'), load('blur-y'), load('blur-x'),
        np.where(np.load('mask.npy')[0], load('mask-y'), -1), load('mask-x')]
grid = np.concatenate([np.concatenate([np.pad(image, 1, constant_values=1) for image in row], axis=1) for row in rows])
Image.fromarray(np.clip((grid + 1) * 127.5, 0, 255).round().astype(np.uint8)).save('$here/restoration.png')"
fi
