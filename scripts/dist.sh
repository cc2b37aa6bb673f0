#!/usr/bin/env bash
# Packs an installed tree with ONNX Runtime beside the library; it runs from any folder.
# Usage: dist.sh BUILD ONNXRUNTIME FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 onnxruntime=$2 folder=$3
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
name=psld-$version-$(uname -m)-$(uname -s | tr '[:upper:]' '[:lower:]')
rm -rf "$folder/$name"
scripts/install.sh "$build" "$folder/$name" > /dev/null
cp -P "$onnxruntime"/libonnxruntime.so* "$folder/$name/lib/"
install -d "$folder/$name/share/doc/onnxruntime"
cp "$onnxruntime/LICENSE" "$onnxruntime/ThirdPartyNotices.txt" "$folder/$name/share/doc/onnxruntime/"
# In one order, without the builder's name and clock: the same content is the same file.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-0}" -C "$folder" -c "$name" \
  | gzip -9n > "$folder/$name.tar.gz"
rm -rf "${folder:?}/$name"
echo "$folder/$name.tar.gz"
