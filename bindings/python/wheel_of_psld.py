"""Builds the wheel: the package, and in it the library that cargo built (PSLD_BUILD names its folder, default
target/release of this repository, which is built first)."""

import base64
import hashlib
import os
import re
import subprocess
import sysconfig
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def version():
    return re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


def metadata():
    project = (HERE / "pyproject.toml").read_text()
    requires = re.search(r"^dependencies = \[(.*)\]$", project, re.M).group(1)
    lines = [
        "Metadata-Version: 2.1",
        "Name: psld",
        f"Version: {version()}",
        "Summary: " + re.search(r'^description = "(.*)"$', project, re.M).group(1),
        "License: MIT OR Apache-2.0",
        "Requires-Python: >=3.9",
        "Description-Content-Type: text/markdown",
    ]
    lines += ["Requires-Dist: " + name for name in re.findall(r'"([^"]+)"', requires)]
    return "\n".join(lines) + "\n\n" + (HERE / "README.md").read_text()


def library():
    """The library's bytes, without the symbols and line tables that cargo builds."""
    folder = os.environ.get("PSLD_BUILD")
    if folder is None:
        subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True)
        folder = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release"
    with tempfile.TemporaryDirectory() as work:
        stripped = Path(work) / "libpsld.so"
        # Of binutils, as the linker that cargo uses.
        strip = os.environ.get("STRIP", "strip")
        subprocess.run([strip, "--strip-all", "-o", stripped, Path(folder) / "libpsld.so"], check=True)
        return stripped.read_bytes()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
    tag = f"py3-none-{platform}"
    info = f"psld-{version()}.dist-info"
    files = {f"psld/{path.name}": path.read_bytes() for path in sorted((HERE / "psld").iterdir()) if path.is_file()}
    files["psld/_version.py"] = f'__version__ = "{version()}"\n'.encode()
    files["psld/libpsld.so"] = library()
    files[f"{info}/METADATA"] = metadata().encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: psld\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        files[f"{info}/{name}"] = (ROOT / name).read_bytes()
    digest = lambda data: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    record = [f"{name},sha256={digest(data)},{len(data)}" for name, data in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    name = f"psld-{version()}-{tag}.whl"
    with zipfile.ZipFile(Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, data in files.items():
            # One clock: the same content is the same file.
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
            wheel.writestr(entry, data)
    return name


def build_sdist(sdist_directory, config_settings=None):
    raise NotImplementedError("psld is built from its repository: pip wheel bindings/python")
