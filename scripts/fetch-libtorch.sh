#!/usr/bin/env bash
# Puts libtorch into FOLDER (default target/libtorch): the pinned `torch` wheel and the two CUDA libraries that its CPU
# part links. A GPU is not needed; on a machine that has one and all of PyTorch's CUDA packages, the same binary uses it.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/libtorch}
packages="torch==2.11.0 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85"
if [ "$(cat "$folder/.from" 2>/dev/null)" = "$packages" ]; then exit 0; fi
rm -rf "$folder"
# shellcheck disable=SC2086 # a list of words
python3 -m pip install --quiet --no-deps --no-compile --root-user-action ignore --target "$folder" $packages
echo "$packages" > "$folder/.from"
echo "libtorch: $folder/torch"
