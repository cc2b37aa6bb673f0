#!/usr/bin/env bash
# Puts program, libraries, headers, pkg-config and CMake files, manual pages and shell completions into PREFIX; all of them are found relative to each other, so
# the tree may be moved. Usage: install.sh BUILD PREFIX, with BUILD the folder that cargo built in (target/release).
set -euo pipefail
cd "$(dirname "$0")/.."
build=$1 prefix=$2
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -1)
# Before 1.0 as after it: what breaks the ABI gets another number.
soversion=${version%%.*}
minor=${version%.*}

install -d "$prefix"/{bin,include,lib/pkgconfig,lib/cmake/psld,share/doc/psld}
# Without symbols and line tables, which a build has for profiles and backtraces.
strip=${STRIP:-strip}
install -m 755 "$build/psld" "$prefix/bin/"
"$strip" --strip-all "$prefix/bin/psld"
# By the program itself: they say what it takes. Each shell looks here.
"$build/psld" man --out "$prefix/share/man/man1"
install -d "$prefix"/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
"$build/psld" completions bash > "$prefix/share/bash-completion/completions/psld"
"$build/psld" completions zsh > "$prefix/share/zsh/site-functions/_psld"
"$build/psld" completions fish > "$prefix/share/fish/vendor_completions.d/psld.fish"
install -m 644 include/psld.h include/psld.hpp "$prefix/include/"
install -m 644 LICENSE-APACHE LICENSE-MIT README.md CHANGELOG.md "$prefix/share/doc/psld/"
install -m 644 "$build/libpsld.a" "$prefix/lib/"
# Nor, in the archive, the bitcode that Rust keeps of its standard library.
"$strip" --strip-debug --remove-section=.llvmbc --remove-section=.llvmcmd "$prefix/lib/libpsld.a"

# Linked here and not by cargo, whose libpsld.so has no SONAME: programs in the source tree are linked with that file. It stays
# in memory when a host unloads it: see src/pin.rs.
exports=$(mktemp)
trap 'rm -f "$exports"' EXIT
echo '{ global: psld_*; local: *; };' > "$exports"
rm -f "$prefix"/lib/libpsld.so*
"${CC:-cc}" -shared -o "$prefix/lib/libpsld.so.$version" -Wl,-soname,"libpsld.so.$soversion" \
  -Wl,--version-script="$exports" -Wl,--whole-archive "$build/libpsld.a" -Wl,--no-whole-archive \
  -Wl,--gc-sections,--as-needed,-z,relro,-z,now,-z,defs,-z,nodelete,--strip-all -lgcc_s -lpthread -ldl -lm -lrt
ln -s "libpsld.so.$version" "$prefix/lib/libpsld.so.$soversion"
ln -s "libpsld.so.$soversion" "$prefix/lib/libpsld.so"

fill() { sed -e "s/@VERSION@/$version/g" -e "s/@SOVERSION@/$soversion/g" -e "s/@MINOR@/$minor/g" "$1" > "$2"; }
for name in psld psld-static-first psld-static psld-shared; do
  fill "bindings/c/$name.pc.in" "$prefix/lib/pkgconfig/$name.pc"
done
fill bindings/c/cmake/psld-config.cmake.in "$prefix/lib/cmake/psld/psld-config.cmake"
fill bindings/c/cmake/psld-config-version.cmake.in "$prefix/lib/cmake/psld/psld-config-version.cmake"
echo "psld $version: $prefix"
