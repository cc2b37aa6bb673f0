#!/usr/bin/env bash
# The Python package with PyTorch and diffusers: exports and pipelines. Usage: test-python-torch.sh BUILD LIBTORCH VENV
#
# PyTorch is the wheel that scripts/fetch-libtorch.sh has put into LIBTORCH. Its CUDA libraries are not there; empty ones take
# their place, as nothing of them is called on a CPU. DIFFUSERS_TESTS may name tests/schedulers/test_schedulers.py of diffusers'
# repository, which its wheel lacks: those tests run, too.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1") libtorch=$(realpath "$2") venv=$3
requirements=bindings/python/tests_torch/requirements.txt
if ! cmp -s "$requirements" "$venv/.from"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q -r "$requirements"
  cp "$requirements" "$venv/.from"
fi
mkdir -p "$venv/stubs"
folders=$venv/stubs:$libtorch/torch/lib:$(find "$libtorch/nvidia" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)
missing=$(LD_LIBRARY_PATH=$folders ldd "$libtorch"/torch/lib/*.so | awk '/not found/ {print $1}' | sort -u)
for name in $missing; do
  cc -shared "-Wl,-soname,$name" -o "$venv/stubs/$name" -x c /dev/null
done
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
PSLD_BUILD=$build "$venv/bin/pip" wheel -q --no-deps --no-build-isolation -w "$wheels" bindings/python
"$venv/bin/pip" install -q --no-deps --force-reinstall "$wheels"/psld-*.whl
unset PSLD_ONNXRUNTIME ORT_DYLIB_PATH PSLD_LIBRARY
if [ -n "${DIFFUSERS_TESTS:-}" ]; then
  DIFFUSERS_TESTS=$(realpath "$DIFFUSERS_TESTS")
  export DIFFUSERS_TESTS
fi
PSLD_PROGRAM=$build/psld LD_LIBRARY_PATH=$folders PYTHONPATH=$libtorch "$venv/bin/python" -m pytest -q -p no:cacheprovider \
  -W ignore bindings/python/tests_torch
