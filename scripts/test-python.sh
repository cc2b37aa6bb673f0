#!/usr/bin/env bash
# Builds the wheel, installs it into a fresh environment and runs its tests there. Usage: test-python.sh BUILD VENV
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1") venv=$2
requirements=bindings/python/tests/requirements.txt
if ! cmp -s "$requirements" "$venv/.from"; then
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q -r "$requirements"
  cp "$requirements" "$venv/.from"
fi
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
PSLD_BUILD=$build "$venv/bin/pip" wheel -q --no-deps --no-build-isolation -w "$wheels" bindings/python
"$venv/bin/pip" install -q --no-deps --force-reinstall "$wheels"/psld-*.whl
# The installed package, not the folder; ONNX Runtime from the wheel, not the pinned file.
unset PSLD_ONNXRUNTIME ORT_DYLIB_PATH PSLD_LIBRARY PYTHONPATH
PSLD_PROGRAM=$build/psld "$venv/bin/python" -m pytest -q -p no:cacheprovider bindings/python/tests
