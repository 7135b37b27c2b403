"""Which backend runs, who says so, and what is said when it cannot."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest
import torch

import aru_kernels
from aru_kernels import _install, backends, backends_info, cpu, functional, use_backend
from support.helpers import needs_cpu_kernels

CPU = torch.device("cpu")


def selected(op: str = "gamma", device: torch.device = CPU, dtype: torch.dtype = torch.float32) -> str:
    return backends.select(op, device, dtype)


@needs_cpu_kernels
def test_auto_takes_the_first_that_can_serve():
    assert selected() == "cpu"
    assert selected(dtype=torch.float16) == "reference"
    assert selected(device=torch.device("meta")) == "reference"


@needs_cpu_kernels
def test_a_backend_that_refuses_a_size_is_passed_over(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "cpu", dataclasses.replace(backends.BACKENDS["cpu"], limited=True))
    monkeypatch.setattr(backends, "_refuses", lambda module, H, G: f"H = {H} is odd" if H % 2 else None)

    def for_size(H: int) -> str:
        return backends.select("aru_sequence", CPU, torch.float32, H, 3)

    assert [for_size(H) for H in (4, 5)] == ["cpu", "reference"]
    assert selected("gamma") == "cpu"
    with (
        use_backend("cpu"),
        pytest.raises(RuntimeError, match=r"^backend 'cpu' cannot run aru_sequence: H = 5 is odd\."),
    ):
        for_size(5)


def test_cuda_says_what_is_missing():
    """On a machine without a GPU."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (row,) = (row for row in backends_info() if row.name == "cuda")
    assert not row.available
    assert row.why_not == "no CUDA device" or row.why_not.startswith("the CUDA extension "), row.why_not


@needs_cpu_kernels
def test_use_backend_nests_and_restores():
    assert backends.requested_backend() == "auto"
    with use_backend("reference"):
        assert selected() == "reference"
        with use_backend("cpu"):
            assert selected() == "cpu"
            with use_backend("auto"):
                assert selected() == "cpu"
        assert selected() == "reference"
    assert selected() == "cpu"


def test_use_backend_restores_after_an_exception():
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert backends.requested_backend() == "auto"


def test_use_backend_is_of_one_thread():
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(backends.requested_backend()))
        thread.start()
        thread.join()
    assert seen == ["auto"]


def test_use_backend_as_a_decorator():
    assert use_backend("reference")(backends.requested_backend)() == "reference"


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("gpu", ValueError, r"^backend is 'gpu', expected one of auto, .*cpu, .*reference\.$"),
        ("CPU", ValueError, r"^backend is 'CPU', expected one of auto, "),
        ("", ValueError, r"^backend is '', expected one of auto, "),
        (None, TypeError, r"^backend must be a string, got NoneType\.$"),
        (3, TypeError, r"^backend must be a string, got int\.$"),
    ],
)
def test_unknown_name(name, error, sentence):
    with pytest.raises(error, match=sentence), use_backend(name):
        pass
    assert backends.requested_backend() == "auto"


@needs_cpu_kernels
@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"dtype": torch.float16}, r"it computes in float32, float64, got torch\.float16\."),
        (
            {"op": "fly"},
            r"it has no kernel for fly, only for aru_sequence, controller_step, gamma, gamma_rnn_sequence, "
            r"leaky_aru_sequence, leaky_gamma_rnn_sequence\.",
        ),
        ({"device": torch.device("meta")}, r"it serves cpu tensors, got one on meta\."),
    ],
)
def test_a_backend_asked_for_by_name_that_cannot_serve(request_, reason):
    op = request_.get("op", "gamma")
    cure = r" Backend 'auto' picks one that can; 'reference' always can\.$"
    with use_backend("cpu"), pytest.raises(RuntimeError, match=rf"^backend 'cpu' cannot run {op}: " + reason + cure):
        selected(**request_)
    with use_backend("reference"):
        assert selected(**request_) == "reference"


@needs_cpu_kernels
def test_the_backend_that_was_asked_for_runs(monkeypatch):
    """By counting calls of the reference."""
    calls = []
    true = aru_kernels.reference.gamma
    monkeypatch.setattr(aru_kernels.reference, "gamma", lambda *args: calls.append(1) or true(*args))
    x = torch.randn(3)
    with use_backend("cpu"):
        functional.gamma(x, 2.0, 0.5)
    assert not calls
    with use_backend("reference"):
        functional.gamma(x, 2.0, 0.5)
    assert calls == [1]


REPORT = "import aru_kernels.backends as b, torch; print(b.select('gamma', torch.device('cpu'), torch.float32))"


def test_environment_variable(run_forked):
    assert run_forked("-c", REPORT, ARU_KERNELS_BACKEND="reference").stdout == "reference\n"
    result = run_forked("-c", REPORT, ARU_KERNELS_BACKEND="warp")
    assert "ValueError: the environment variable ARU_KERNELS_BACKEND is 'warp', expected one of auto, " in result.stderr


def test_use_backend_overrides_the_environment(monkeypatch):
    monkeypatch.setenv("ARU_KERNELS_BACKEND", "reference")
    assert selected() == "reference"
    with use_backend("auto"):
        assert backends.requested_backend() == "auto"


def test_backends_info():
    rows = {row.name: row for row in backends_info()}
    assert list(rows) == list(backends.BACKENDS)
    assert list(rows)[-1] == "reference"
    assert rows["reference"] == ("reference", True, "", "any", ("all",))
    assert "gamma" in rows["cpu"].ops
    for row in rows.values():
        assert row.available == (row.why_not == ""), row
        assert row.available == (row.device != ""), row


@needs_cpu_kernels
def test_cpu_row_names_the_instruction_set_and_the_threads(set_threads):
    set_threads(1)
    assert backends.BACKENDS["cpu"].load().device().startswith(f"{cpu._C.isa()} (of {', '.join(cpu._C.usable_isas())})")
    assert ", 1 thread, " in cpu.device()
    set_threads(2)
    assert ", 2 threads, " in cpu.device()


def test_the_command_prints_the_table(run_python):
    result = run_python("-m", "aru_kernels")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert result.stdout.startswith(f"aru_kernels {aru_kernels.__version__}  Python 3.")
    for row in backends_info():
        (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"{row.name} "))
        assert ("not available: " in line) == (not row.available), line
    assert "backend asked for: auto\n" in result.stdout


WITHOUT = """
import sys
sys.modules["aru_kernels._C"] = None  # an import of it raises ImportError
import torch, aru_kernels
"""


def test_the_package_works_without_the_extension(run_forked):
    code = WITHOUT + (
        "layer = aru_kernels.ARUN(3, 5, controller_size=4)\n"
        "layer(torch.randn(4, 2, 3))[0].sum().backward()\n"
        "print(layer.weight_hh_l0.grad.isfinite().all().item(), aru_kernels.backends_info()[0].why_not)\n"
    )
    result = run_forked("-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("True the C++ extension "), result.stdout
    assert "pip install -e ." in result.stdout


def test_the_reference_in_place_of_a_kernel_warns_once(run_forked):
    code = WITHOUT + (
        "layer = aru_kernels.ARUN(3, 5, controller_size=4)\n"
        "for _ in range(3): layer(torch.randn(4, 2, 3))\n"
        "with aru_kernels.use_backend('reference'): aru_kernels.GammaRNN(3, 5)(torch.randn(4, 2, 3))\n"
    )
    result = run_forked("-c", code)
    assert result.stderr.count("RuntimeWarning") == 1, result.stderr
    assert "aru_kernels: no kernel runs aru_sequence on this CPU; the reference runs instead" in result.stderr
    assert "(cpu: the C++ extension cannot be loaded" in result.stderr
    assert "run `pip install -e .` to build it)" in result.stderr
    assert result.stderr.startswith("<string>:"), "the warning names the caller's line"


class _Installed:
    """What importlib.metadata knows of an installation."""

    def __init__(self, site: Path, direct_url: str | None) -> None:
        self.site, self.direct_url = site, direct_url

    def locate_file(self, path: str) -> Path:
        return self.site / path

    def read_text(self, name: str) -> str | None:
        return self.direct_url if name == "direct_url.json" else None


def test_the_cure_for_a_missing_extension_depends_on_the_installation(tmp_path):
    tree, site = tmp_path / "clone", tmp_path / "site-packages"
    for folder in (tree, site):
        (folder / "aru_kernels").mkdir(parents=True)
        (folder / "aru_kernels" / "__init__.py").touch()
    (tree / "csrc").mkdir()
    (tree / "setup.py").touch()
    editable = _Installed(tree, '{"dir_info": {"editable": true}, "url": "file:///clone"}')
    wheel, foreign = _Installed(site, None), _Installed(site, "[]")
    again = "run `pip install --force-reinstall --no-deps {}` to build it"
    index = "--no-cache-dir --no-binary aru_kernels aru_kernels"
    for address, source in [
        (None, index),
        ('{"archive_info": {}, "url": "file:///down/aru_kernels-1-py3.whl"}', index),
        ('{"archive_info": {}, "url": "file:///down/aru_kernels-1.tar.gz"}', "/down/aru_kernels-1.tar.gz"),
        ('{"dir_info": {}, "url": "file:///my%20home/clone"}', '"/my home/clone"'),
        ('{"dir_info": {}, "url": "https://host/clone"}', index),
        ('{"dir_info": 3, "url": 3}', index),
        ("{", index),
    ]:
        found = _install.cure_for(site / "aru_kernels", [editable, _Installed(site, address)], "with nvcc")
        assert found == f"with nvcc, {again.format(source)}"
    in_the_tree = "with nvcc, run `pip install -e .` to build it"
    assert _install.cure_for(tree / "aru_kernels", [editable], "with nvcc") == in_the_tree
    for distributions in ([], [editable]):
        assert _install.cure_for(tree / "aru_kernels", distributions) == "run `pip install -e .` to build it"
    for distributions in ([wheel], [editable, wheel], [foreign]):
        sentence = _install.cure_for(tree / "aru_kernels", distributions)
        assert sentence.startswith(f"Python was started in the source tree {tree}, which hides the aru_kernels ")
        assert f"installed in {site}: start it in another folder" in sentence


def test_an_empty_variable_is_unset(run_forked):
    empty = dict.fromkeys(("ARU_KERNELS_BACKEND", "ARU_STATE_BUDGET", "ARU_CPU_ISA"), "")
    code = (
        "import torch; from aru_kernels import ARUN, backends\n"
        "ARUN(3, 5)(torch.randn(900, 40, 3))[0].sum().backward()\n"
        "print(backends.requested_backend(), backends.BACKENDS['cpu'].unavailable())"
    )
    result = run_forked("-c", code, **empty)
    assert result.stdout == "auto None\n", result.stderr


@pytest.mark.parametrize("name", ["ARU_KERNELS_BACKEND", "ARU_STATE_BUDGET", "ARU_CPU_ISA"])
@pytest.mark.parametrize("value", ["9" * 400, "1" * 20, "1e9", "-1", "x" * 400, "１２", "1.5.5G"])
def test_a_variable_that_means_nothing_is_a_sentence(run_forked, name, value):
    code = "import torch, warnings; from aru_kernels import ARUN; warnings.simplefilter('ignore')\n"
    code += "ARUN(3, 5)(torch.randn(900, 40, 3))[0].sum().backward()"
    result = run_forked("-c", code, **{name: value})
    if name == "ARU_CPU_ISA" and result.returncode == 0:  # `auto` says so and takes the reference
        result = run_forked("-c", "from aru_kernels import cpu; print(cpu.unavailable())", **{name: value})
        assert result.stdout.startswith(f"{name} is "), result.stdout
    else:
        assert f"{name} is " in result.stderr.splitlines()[-1], result.stderr[-500:]


def test_asking_for_the_missing_extension_says_what_is_missing(run_forked):
    code = WITHOUT + "with aru_kernels.use_backend('cpu'): aru_kernels.Gamma()(torch.ones(3))"
    result = run_forked("-c", code)
    assert "RuntimeError: backend 'cpu' cannot run gamma: the C++ extension " in result.stderr
    assert "pip install -e ." in result.stderr
    assert "Backend 'auto' picks one that can; 'reference' always can." in result.stderr


def test_the_command_works_without_the_extension(run_forked):
    code = WITHOUT + "from aru_kernels.__main__ import main; main()"
    (line,) = (line for line in run_forked("-c", code).stdout.splitlines() if line.startswith("cpu "))
    assert "not available: the C++ extension " in line


@needs_cpu_kernels
def test_an_extension_of_another_version_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "__version__", "9.9")
    assert cpu.unavailable() == (
        f"the C++ extension is of version {aru_kernels.__version__}, the package of 9.9; {_install.cure()}"
    )
