#!/usr/bin/env bash
# Puts ONNX Runtime's shared library into FOLDER (default target/onnxruntime): the one file of the pinned wheel that is
# needed. Python is used to fetch and unpack it, never at run time.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-target/onnxruntime}
requirement=scripts/onnxruntime.txt
stamp="$folder/.from"
if [ -e "$folder/libonnxruntime.so" ] && cmp -s "$requirement" "$stamp"; then exit 0; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The interpreter's own version does not matter to the library, so one wheel serves all: one hash to check.
python3 -m pip download --quiet --no-deps --require-hashes --only-binary=:all: --implementation cp --python-version 3.11 \
    --platform "manylinux_2_28_$(uname -m)" --platform "manylinux_2_27_$(uname -m)" -d "$work" -r "$requirement"
python3 - "$work" <<'PY'
import glob, os, sys, zipfile

work = sys.argv[1]
(wheel,) = glob.glob(os.path.join(work, "*.whl"))
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        base = os.path.basename(name)
        if name.startswith("onnxruntime/capi/libonnxruntime.so") or base in ("LICENSE", "ThirdPartyNotices.txt"):
            with open(os.path.join(work, base), "wb") as out:
                out.write(archive.read(name))
PY
mkdir -p "$folder"
library=$(cd "$work" && ls libonnxruntime.so.*)
mv "$work/$library" "$folder/"
mv "$work"/LICENSE "$work"/ThirdPartyNotices.txt "$folder/" 2>/dev/null || true
ln -sf "$library" "$folder/libonnxruntime.so"
ln -sf "$library" "$folder/libonnxruntime.so.1"
cp "$requirement" "$stamp"
echo "ONNX Runtime: $folder/$library"
