"""What is published: wheels with the right kernels, without libraries that torch brings."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from aru_kernels import cpu
from support.helpers import ROOT, needs_cpu_kernels

pytestmark = [
    needs_cpu_kernels,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("readelf") is None, reason="needs Linux and readelf"),
]

NAME = "aru_kernels-0.1.0-cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"
TABLE = "built\nsources 0\nforward form=tf32 tiles=1 sm_80 x\nforward sm_90a x\nforward sm_100 x\n"


@pytest.fixture
def check(tmp_path):
    """check(name, **changed): status and output of the program for a wheel with these files; None leaves one out."""
    module = Path(cpu._C.__file__).read_bytes() if cpu._C else b""

    def run(name: str = NAME, **changed: bytes | str | None) -> tuple[int, str]:
        files = {"_C.cpython-311-x86_64-linux-gnu.so": module, "_cuda.cpython-311-x86_64-linux-gnu.so": module}
        files |= {"_build.txt": "built\n", "_build_cuda.txt": TABLE, "__init__.py": ""}
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, content in (files | changed).items():
                if content is not None:
                    archive.writestr(path if "/" in path else f"aru_kernels/{path}", content)
        command = [sys.executable, str(ROOT / "tests" / "tools" / "check_wheel.py"), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.stderr
        return done.returncode, done.stdout

    return run


@pytest.mark.parametrize(
    ("name", "absent"),
    [
        (NAME, []),
        ("aru_kernels-0.1.0-cp312-cp312-manylinux_2_28_aarch64.whl", ["_cuda.cpython-311-x86_64-linux-gnu.so"]),
        ("aru_kernels-0.1.0-cp313-cp313-macosx_11_0_arm64.whl", ["_cuda.cpython-311-x86_64-linux-gnu.so"]),
        ("aru_kernels-0.1.0-cp314-cp314-win_amd64.whl", ["_cuda.cpython-311-x86_64-linux-gnu.so"]),
    ],
)
def test_a_good_wheel(check, name, absent):
    code, printed = check(name, **dict.fromkeys(absent))
    assert code == 0, printed
    assert printed.startswith(f"{name}: good, ")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"_cuda.cpython-311-x86_64-linux-gnu.so": None}, "it has 0 modules aru_kernels._cuda, expected 1"),
        ({"_C.cpython-312-x86_64-linux-gnu.so": "x"}, "it has 2 modules aru_kernels._C, expected 1"),
        ({"_build.txt": "no working C++ compiler\n"}, "_build.txt says 'no working C++ compiler', expected 'built'"),
        ({"_build_cuda.txt": None}, "_build_cuda.txt says 'no note', expected 'built'"),
        ({"_build_cuda.txt": TABLE.replace("sm_90a", "sm_90")}, "_build_cuda.txt has no kernels for sm_90a"),
        ({"aru_kernels.libs/libgomp-24e2ab19.so.1.0.0": "x"}, "it carries aru_kernels.libs/libgomp-24e2ab19.so.1.0.0,"),
        ({"_C.cpython-311-x86_64-linux-gnu.so": "no module"}, "x86_64-linux-gnu.so is no shared library"),
    ],
)
def test_a_fault_of_a_wheel_is_told(check, changed, sentence):
    code, printed = check(**changed)
    assert code == 1
    assert sentence in printed


def test_a_wheel_that_is_too_large(check):
    code, printed = check(data=random.Random(0).randbytes(10_000_000))
    assert code == 1
    assert "bytes, expected 10000000 at most" in printed


def test_a_wheel_that_is_not_repaired(check):
    code, printed = check("aru_kernels-0.1.0-cp311-cp311-linux_x86_64.whl")
    assert code == 1
    assert "its tag is linux_x86_64, expected manylinux: auditwheel has not repaired it" in printed


def test_a_module_that_needs_other_libraries(check, tmp_path):
    """As the CUDA kernels would with the CUDA run time linked dynamically."""
    if shutil.which("g++") is None:
        pytest.skip("no g++")
    source, module = tmp_path / "m.cpp", tmp_path / "m.so"
    source.write_text("extern int z; int f() { return z; }")
    library = tmp_path / "libcudart.so.13"
    subprocess.run(
        ["g++", "-shared", "-fPIC", "-x", "c++", "-", "-o", library, f"-Wl,-soname,{library.name}"],
        input=b"int z;",
        check=True,
    )
    subprocess.run(["g++", "-shared", "-fPIC", source, library, "-o", module], check=True)
    code, printed = check(**{"_cuda.cpython-311-x86_64-linux-gnu.so": module.read_bytes()})
    assert code == 1
    assert "_cuda.cpython-311-x86_64-linux-gnu.so needs libcudart.so.13" in printed


def test_wheels_are_built_as_the_check_expects():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["cibuildwheel"]
    (combined,) = settings["overrides"]
    assert combined["select"] == "*-manylinux_x86_64"
    assert combined["environment"].items() >= {"ARU_BUILD_CPU": "1", "ARU_BUILD_CUDA": "1"}.items()
    for environment in (settings["environment"], settings["windows"]["environment"]):
        assert environment.items() >= {"ARU_BUILD_CPU": "1", "ARU_BUILD_CUDA": "0"}.items()
    assert "--exclude libgomp.so.1" in settings["linux"]["repair-wheel-command"]
    workflow = ROOT / ".github" / "workflows" / "wheels.yml"
    if workflow.exists():  # not in an sdist
        assert "python source/tests/tools/check_wheel.py wheelhouse/*.whl" in workflow.read_text(encoding="utf-8")
