#!/usr/bin/env bash
# Builds the wheel, installs it into fresh environments and runs its tests there: with the newest packages that it was tried
# with, where its types are checked, too, and with the oldest that it asks for. Usage: test-python.sh BUILD VENV; the second
# environment is VENV-oldest.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "$1")
# The installed package, not the folder; ONNX Runtime from the wheel, not the pinned file.
unset PSLD_ONNXRUNTIME ORT_DYLIB_PATH PSLD_LIBRARY PYTHONPATH
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

in_environment() { # VENV REQUIREMENTS
  local venv=$1 requirements=bindings/python/tests/$2
  if ! cmp -s "$requirements" "$venv/.from"; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install -q -r "$requirements"
    cp "$requirements" "$venv/.from"
  fi
  if ! compgen -G "$wheels/psld-*.whl" > /dev/null; then
    PSLD_BUILD=$build "$venv/bin/pip" wheel -q --no-deps --no-build-isolation -w "$wheels" bindings/python
  fi
  "$venv/bin/pip" install -q --no-deps --force-reinstall "$wheels"/psld-*.whl
  "$venv/bin/pip" check -q
  PSLD_PROGRAM=$build/psld "$venv/bin/python" -m pytest -q -p no:cacheprovider bindings/python/tests
}
in_environment "$2" requirements.txt
"$2/bin/python" -m mypy --config-file bindings/python/pyproject.toml --cache-dir "$2/mypy" -p psld
in_environment "$2-oldest" requirements-oldest.txt
