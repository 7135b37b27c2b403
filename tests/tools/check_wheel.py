"""Checks wheels before they are published: which kernels they carry, and which libraries these need.

    python tests/tools/check_wheel.py WHEEL ...

The exit status is 1 where a wheel has a fault. Nothing is installed. For Linux it needs `readelf` of binutils.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
MOST_BYTES = 10_000_000
# What manylinux promises, and the OpenMP run time that torch has loaded. The CUDA run time is linked statically, and
# the driver is opened when it is there.
LIBRARIES = re.compile(r"(libstdc\+\+|libgcc_s|libc|libm|libpthread|libdl|librt|libgomp|ld-linux[-\w]*)\.so\.\d+")


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel, a sentence each.

    Args:
        wheel: the file; its name says for which system it is.
    """
    tag = wheel.stem.rsplit("-", 1)[-1]
    linux = "linux" in tag
    kernels = {"_C": "_build.txt"}
    if linux and tag.endswith("x86_64"):
        kernels["_cuda"] = "_build_cuda.txt"
    found = []
    if linux and not tag.startswith("manylinux"):
        found.append(f"its tag is {tag}, expected manylinux: auditwheel has not repaired it")
    if (size := wheel.stat().st_size) > MOST_BYTES:
        found.append(f"it has {size} bytes, expected {MOST_BYTES} at most")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        carried = [n for n in names if re.search(r"\.(so(\.\d+)*|dylib|dll|pyd)$", n)]
        for module, note in kernels.items():
            of_module = [n for n in carried if re.fullmatch(rf"aru_kernels/{module}\.[\w.-]+", n)]
            if len(of_module) != 1:
                found.append(f"it has {len(of_module)} modules aru_kernels.{module}, expected 1")
            for name in of_module:
                carried.remove(name)
                found += unexpected_libraries(name, archive.read(name)) if linux else []
            text = archive.read(f"aru_kernels/{note}").decode() if f"aru_kernels/{note}" in names else "no note"
            if (outcome := text.split("\n", 1)[0]) != "built":
                found.append(f"{note} says {outcome!r}, expected 'built'")
            if module == "_cuda" and (missing := [a for a in ARCHITECTURES if f" {a} " not in text]):
                found.append(f"{note} has no kernels for {', '.join(missing)}")
        found += [f"it carries {name}, which torch has or no kernel needs" for name in carried]
    return found


def unexpected_libraries(name: str, module: bytes) -> list[str]:
    """A sentence for each library that an ELF file needs and a system with torch need not have."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(module)
        file.flush()
        environment = os.environ | {"LC_ALL": "C"}
        done = subprocess.run(["readelf", "-d", file.name], capture_output=True, text=True, env=environment)
    if done.returncode or "NEEDED" not in done.stdout:
        return [f"{name} is no shared library: {(done.stderr or done.stdout).strip()[:200]}"]
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", done.stdout)
    return [f"{name} needs {library}" for library in needed if not LIBRARIES.fullmatch(library)]


def main(wheels: list[str]) -> int:
    """Prints a line for each wheel; 1 where one has a fault."""
    if not wheels:
        sys.exit("usage: check_wheel.py WHEEL ...")
    failed = False
    for wheel in map(Path, wheels):
        found = faults(wheel)
        failed |= bool(found)
        print(f"{wheel.name}: {'; '.join(found) or f'good, {wheel.stat().st_size / 1e6:.1f} MB'}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
