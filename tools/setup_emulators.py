"""Makes a folder with emulated processors, on which TFLite files run as on a phone: 64-bit Arm, and a PC without AVX.

    python tools/setup_emulators.py .emulators

It needs Debian 12 (or another system with Python 3.11 in its packages), root for apt, and a network; takes some two
minutes and 250 MB. `export_tflite(verify_on=".emulators")` and `make test-arm64` then run files there. The runtime on
Arm is an older one: QEMU 7.2 of Debian 12 stops with newer ones.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

PYTHON = "3.11"
LITERT = "2.0.2"
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")
PACKAGES = (
    *("libc6", "libgcc-s1", "libstdc++6", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0", "liblzma5"),
    *("libuuid1", f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib"),
)


def run(*command: str, cwd: pathlib.Path | None = None) -> None:
    """Runs a command, and ends with its last words if it fails."""
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed:\n{result.stderr.strip() or result.stdout.strip()}")


def install_emulator() -> None:
    """Installs QEMU, and tells apt of Arm's packages."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        sys.exit("Expected a Debian system and to be root, for apt-get.")
    run("dpkg", "--add-architecture", "arm64")
    run("apt-get", "update", "-qq")
    run("apt-get", "install", "-y", "-qq", "qemu-user")


def unpack_arm(folder: pathlib.Path) -> None:
    """Unpacks Arm's C libraries, Python, NumPy and LiteRT."""
    root, site, packed = folder / "root", folder / "site", folder / "packed"
    for path in (root, site, packed):
        path.mkdir(parents=True, exist_ok=True)
    run("apt-get", "download", "-qq", *(f"{package}:arm64" for package in PACKAGES), cwd=packed)
    for package in sorted(packed.glob("*.deb")):
        run("dpkg", "-x", str(package), str(root))
    options = [option for platform in PLATFORMS for option in ("--platform", platform)]
    options += ["--only-binary=:all:", "--no-deps", "--implementation", "cp", "--python-version", PYTHON]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", *options, "-d", str(packed)]
    run(*pip, f"ai-edge-litert=={LITERT}", "numpy<2.5")
    for wheel in packed.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(site)
    shutil.rmtree(packed)


def processors(folder: pathlib.Path) -> list[dict]:
    """Returns what `processors.json` holds: names, and commands that start a Python. {python} is that of the export."""
    root = folder / "root"
    arm = ["qemu-aarch64", "-cpu", "cortex-a72", "-L", str(root)]
    arm += ["-E", f"PYTHONHOME={root / 'usr'}", "-E", f"PYTHONPATH={folder / 'site'}"]
    # NumPy's OpenBLAS takes the processor below the emulator for granted.
    older = ["qemu-x86_64", "-cpu", "Nehalem", "-E", "OPENBLAS_CORETYPE=Nehalem", "{python}"]
    return [
        {"name": f"arm64 (emulated, ai-edge-litert {LITERT})", "command": [*arm, f"{root}/usr/bin/python{PYTHON}"]},
        {"name": "x86-64 without AVX (emulated)", "command": older},
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder.resolve()
    described = folder / "processors.json"
    if described.exists():
        print(f"Set up already: {folder}")
        return
    install_emulator()
    unpack_arm(folder)
    described.write_text(json.dumps(processors(folder), indent=2) + "\n")
    print(f"Set up: {folder}")


if __name__ == "__main__":
    main()
