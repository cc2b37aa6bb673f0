#!/usr/bin/env bash
# Installs into a clean folder and builds the examples against that alone, by CMake and by pkg-config, shared and static; then
# unpacks the tarball elsewhere and samples from an ONNX model with what is in it. Usage: test-install.sh BUILD ONNXRUNTIME WORK
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 onnxruntime=$2 work=$3
model=$PWD/tests/data/capi/mixture.json
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
# Nothing of this build or of the system's shall help.
unset LD_LIBRARY_PATH PSLD_ONNXRUNTIME ORT_DYLIB_PATH PKG_CONFIG_PATH CMAKE_PREFIX_PATH
rm -rf "$work"
mkdir -p "$work"

scripts/install.sh "$build" "$work/first"
# Moved after it was installed: nothing in it may name the place.
mv "$work/first" "$work/prefix with space"
prefix="$work/prefix with space"
if grep -rIl "$work" "$prefix" --include='*.pc' --include='*.cmake'; then echo "an absolute path" >&2; exit 1; fi

fail() { echo "test-install: $*" >&2; exit 1; }
soname=$(readelf -d "$prefix/lib/libpsld.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
[ "$soname" = "libpsld.so.${version%%.*}" ] || fail "SONAME is '$soname'"
foreign=$(nm -D --defined-only "$prefix/lib/libpsld.so" | awk '$3 !~ /^psld_/ { print $3 }')
[ -z "$foreign" ] || fail "exports $foreign"
"$prefix/bin/psld" sample "$model" -n 2 --nfe 4 --quiet --out "$work/a.npy"

bash -c "source '$prefix/share/bash-completion/completions/psld' && complete -p psld" > /dev/null || fail "completions for bash"
for file in man/man1/psld.1 man/man1/psld-sample.1 zsh/site-functions/_psld fish/vendor_completions.d/psld.fish; do
  [ -s "$prefix/share/$file" ] || fail "share/$file"
done

runs() { # FILE KIND: sixteen numbers, and linked as it should be
  [ "$("$1" "$model" | grep -c .)" = 16 ] || fail "$1"
  # Not `| grep -q`: it closes the pipe at the first match, which ldd may then fail of.
  if [[ $(ldd "$1") == *libpsld* ]]; then kind=shared; else kind=static; fi
  [ "$kind" = "$2" ] || fail "$1 is $kind, not $2"
}

cmake -S bindings -B "$work/cmake" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release > "$work/cmake.log" \
  || { cat "$work/cmake.log"; exit 1; }
cmake --build "$work/cmake" >> "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
runs "$work/cmake/sample-cpp" shared
runs "$work/cmake/sample-cpp-static" static
for program in sample-c sample-c-static; do
  "$work/cmake/$program" "$model" "$work/out.ppm" 4 2> /dev/null
  [ "$(head -c 2 "$work/out.ppm")" = P6 ] || fail "$program wrote no picture"
done
# A version that it is not is refused.
mkdir "$work/other"
printf 'cmake_minimum_required(VERSION 3.18)\nproject(x NONE)\nfind_package(psld 0.2 REQUIRED)\n' > "$work/other/CMakeLists.txt"
if cmake -S "$work/other" -B "$work/other/b" -DCMAKE_PREFIX_PATH="$prefix" > /dev/null 2>&1; then fail "psld 0.2 was found"; fi

export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
[ "$(pkg-config --modversion psld)" = "$version" ] || fail "pkg-config"
# Spaces in the prefix come out escaped: the shell has to read the words again.
eval "c++ -std=c++17 bindings/cpp/examples/sample.cpp -o '$work/pc-shared' $(pkg-config --cflags --libs psld) '-Wl,-rpath,$prefix/lib'"
runs "$work/pc-shared" shared
eval "c++ -std=c++17 bindings/cpp/examples/sample.cpp -o '$work/pc-static' $(pkg-config --static --cflags --libs psld)"
runs "$work/pc-static" static

# What is shipped has no symbols but the exports, and stays in memory when a host unloads it.
for file in bin/psld lib/libpsld.so; do
  [[ $(readelf -SW "$prefix/$file") != *.debug_info* && $(readelf -SW "$prefix/$file") != *.symtab* ]] || fail "$file is not stripped"
done
[[ $(readelf -SW "$prefix/lib/libpsld.a") != *.debug_info* ]] || fail "libpsld.a is not stripped"
[[ $(readelf -dW "$prefix/lib/libpsld.so") == *NODELETE* ]] || fail "libpsld.so may be unloaded"

tarball=$(scripts/dist.sh "$build" "$onnxruntime" "$work/dist" | tail -1)
mkdir "$work/elsewhere"
tar -C "$work/elsewhere" -xzf "$tarball"
"$work"/elsewhere/psld-*/bin/psld sample models/cifar10-exact.onnx -n 1 --nfe 2 --quiet --out "$work/b.png"
cmake -S bindings -B "$work/cmake2" -DCMAKE_PREFIX_PATH="$(echo "$work"/elsewhere/psld-*)" > /dev/null
cmake --build "$work/cmake2" --target sample-c > /dev/null
"$work/cmake2/sample-c" models/cifar10-exact.onnx "$work/c.ppm" 1 2> /dev/null
echo "test-install: ok ($(du -h "$tarball" | cut -f1) tarball)"
