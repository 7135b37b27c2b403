"""What is done with a captured program: gradients inside it, torch.func, torch.compile, files, AOTInductor, ONNX."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.fx.experimental.proxy_tensor import make_fx

from aru_kernels import ARUN, ARUNCell, Gamma, GammaRNN, _memory, use_backend
from benchmarks.memory import resident_peak
from support.helpers import needs_cpu_kernels, needs_resident_peak
from support.tolerances import assert_all_close, assert_close

pytestmark = needs_cpu_kernels

T, B, I, H, G = 7, 2, 3, 5, 4  # noqa: E741
LAYERS = {"ARUN": lambda: ARUN(I, H, controller_size=G), "GammaRNN": lambda: GammaRNN(I, H)}
each_layer = pytest.mark.parametrize("layer", LAYERS)
# torch.jit is deprecated, and warns of every size that Python looks at
traces = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
compiles = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore::FutureWarning")


def loss(module: nn.Module, x: Tensor) -> Tensor:
    return module(x)[0].square().sum()


def gradient(module: nn.Module, x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(loss(module, leaf), leaf)[0]


@each_layer
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_a_program_that_takes_a_gradient(layer, mode):
    """make_fx of a gradient: forward and backward are one operator each, and neither fixes a decision."""
    module, x, later = LAYERS[layer](), torch.randn(T, B, I), torch.randn(T, B, I)
    program = make_fx(lambda x: gradient(module, x), tracing_mode=mode, _allow_non_fake_inputs=True)(x)
    op = {"ARUN": "aru_sequence", "GammaRNN": "gamma_rnn_sequence"}[layer]
    recorded = [str(node.target) for node in program.graph.nodes if "aru_kernels" in str(node.target)]
    assert recorded == [f"aru_kernels.{op}.default", f"aru_kernels.{op}_backward.default"]
    assert_close("d_input", program(later), gradient(module, later), "sequence")
    with use_backend("reference"):
        assert_close("d_input", program(later), gradient(module, later), "sequence")


@each_layer
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_autograd(layer):
    """Dynamo traces the backward pass: it must see an operator, as it cannot follow a kernel's call."""
    module, x = LAYERS[layer](), torch.randn(T, B, I)
    expected = torch.autograd.grad(loss(module, x), list(module.parameters()))
    value = loss(module, x)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager", fullgraph=True)):
        value.backward()
    for (name, parameter), d in zip(module.named_parameters(), expected, strict=True):
        assert_close(f"d_{name}", parameter.grad, d, "sequence")


@each_layer
def test_second_derivatives_of_captured_programs(layer):
    module, x = LAYERS[layer](), torch.randn(T, B, I)
    exported = export(module, (x,)).module()

    def second(f) -> Tensor:
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(f(leaf)[0].square().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.sum(), leaf)[0]

    with use_backend("reference"):
        assert_close("second derivative", second(exported), second(module), "sequence")
    with pytest.raises(RuntimeError, match=r"^backend 'cpu' has no second derivative of "):
        second(exported)
    captured = make_fx(lambda x: torch.autograd.grad(loss(module, x), x, create_graph=True)[0])(x.requires_grad_())
    with pytest.raises(RuntimeError, match=r"^a captured program has no second derivative of .*use_backend\('refer"):
        captured(x.detach().clone().requires_grad_()).sum().backward()


# vmap's fallback takes one call after the other and says so
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@each_layer
def test_transforms_of_an_exported_program(layer):
    module, x = LAYERS[layer](), torch.randn(T, B, I)
    exported = export(module, (x,)).module()
    assert_close("d_input", torch.func.grad(lambda x: loss(exported, x))(x), gradient(module, x), "sequence")
    many = torch.stack((x, -x))
    assert_close("output", torch.func.vmap(lambda x: exported(x)[0])(many)[1], module(-x)[0], "sequence")


@compiles
@pytest.mark.slow
@each_layer
def test_a_compiled_exported_program(layer):
    module, x = LAYERS[layer](), torch.randn(T, B, I)
    torch.compiler.reset()
    compiled = torch.compile(export(module, (x,)).module(), backend="aot_eager")
    assert_close("d_input", gradient(compiled, x), gradient(module, x), "sequence")
    with torch.no_grad():
        assert_close("output", compiled(x)[0], module(x)[0], "sequence")
    torch.compiler.reset()


@compiles
@each_layer
def test_other_ways_to_run_an_exported_program(layer):
    module, x = LAYERS[layer](), torch.randn(T, B, I)
    program = export(module, (x,))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    for exported in (torch.export.load(file).module(), program.run_decompositions().module()):
        assert_close("d_input", gradient(exported, x), gradient(module, x), "sequence")
        with torch.inference_mode():
            assert_close("output", exported(x)[0], module(x)[0], "sequence")
        for backend in ("cpu", "reference"):
            with use_backend(backend):
                assert_close("output", exported(x)[0], module(x)[0], "sequence")


@each_layer
def test_plain_operations_on_request(layer):
    """For run times that do not know the package: captured on the reference, a program has operations of PyTorch."""
    module, x = LAYERS[layer](), torch.randn(T, B, I)
    with use_backend("reference"):
        program = export(module, (x,))
    assert not any("aru_kernels" in str(node.target) for node in program.graph.nodes)
    assert_close("output", program.module()(x)[0], module(x)[0], "sequence")


@needs_resident_peak
def test_gradients_stay_in_the_budget_of_the_machine_that_runs(monkeypatch):
    """The checkpoints are those of the size that runs and of the memory that is free then."""
    module = ARUN(1, 64, controller_size=16)
    monkeypatch.setattr(_memory, "free_bytes", lambda: 2**40)
    program = export(module, (torch.randn(40, 2, 1),), dynamic_shapes=({0: Dim("T"), 1: Dim("B")},)).module()
    monkeypatch.setenv("ARU_STATE_BUDGET", "1MiB")
    peaks, gradients = [], []
    for f in (module, program, module):
        x = torch.linspace(0, 1, 2000 * 8).view(2000, 8, 1)
        before = resident_peak()
        gradients.append(gradient(f, x))
        peaks.append(resident_peak() - before)
    assert torch.equal(gradients[0], gradients[1])
    assert peaks[1] < 16 * 2**20, f"{peaks[1]} bytes more than the layer; all of the state takes 70 MiB"


@traces
@each_layer
def test_a_frozen_and_saved_trace(layer):
    module = LAYERS[layer]().eval()
    traced = torch.jit.trace(module, (torch.randn(T, B, I),), check_trace=False)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    for program in (traced, torch.jit.load(file), torch.jit.freeze(traced)):
        for steps, batch in ((1, 1), (9, 4)):
            x = torch.randn(steps, batch, I)
            assert_close("output", program(x)[0], module(x)[0], "sequence")


def test_autocast_inside_an_exported_model():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = ARUN(I, H, controller_size=G)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.rnn(x)[0]

    model, x = Model(), torch.randn(T, B, I)
    program = export(model, (x,)).module()
    assert torch.equal(program(x), model(x))


def test_a_half_precision_layer():
    module, x = ARUN(I, H, controller_size=G).half(), torch.randn(T, B, I).half()
    output = export(module, (x,)).module()(x)[0]
    assert output.dtype == torch.float16
    assert torch.equal(output, module(x)[0])


def test_fake_and_meta_tensors():
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        for layer in LAYERS.values():
            assert layer()(torch.randn(T, B, I))[0].shape == (T, B, H)
    for layer in (ARUN(I, H, device="meta"), GammaRNN(I, H, device="meta")):
        assert layer(torch.randn(T, B, I, device="meta"))[0].shape == (T, B, H)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"batch_first": True, "bidirectional": True}], ids=["plain", "both directions"]
)
@each_layer
def test_aot_inductor(layer, options, tmp_path):
    """A compiled package that serves every size; numbers at six of them."""
    module = {"ARUN": lambda: ARUN(I, H, controller_size=G, **options), "GammaRNN": lambda: GammaRNN(I, H, **options)}
    module = module[layer]().eval()
    named = (
        ({0: Dim("B", max=512), 1: Dim("T", max=4096)},)
        if options
        else ({0: Dim("T", max=4096), 1: Dim("B", max=512)},)
    )
    with torch.no_grad():
        program = export(module, (torch.randn(6, 5, I),), dynamic_shapes=named)
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "m.pt2"))
        compiled = torch._inductor.aoti_load_package(path)
        for sizes in ((6, 5), (1, 1), (2, 9), (40, 3), (300, 2), (3, 300)):
            x = torch.randn(*sizes, I)
            assert_all_close(("output",), compiled(x)[:1], module(x)[:1], "sequence")


# torch.onnx's own, and onnxscript's
onnx_warns = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")


@onnx_warns
@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    ["ARUN", "GammaRNN both directions", "ARUN with a leak", "GammaRNN with a trained leak", "ARUNCell", "Gamma"],
)
def test_onnx(case, tmp_path):
    """onnxruntime agrees, for any batch; the steps of a sequence are written out, so their number is fixed."""
    pytest.importorskip("onnxscript", reason="ONNX export needs onnx and onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the check needs onnxruntime")
    module, shape, dim = {
        "ARUN": (ARUN(I, H, controller_size=G, batch_first=True), (B, T, I), 0),
        "GammaRNN both directions": (GammaRNN(I, H, bidirectional=True), (T, B, I), 1),
        "ARUN with a leak": (ARUN(I, H, controller_size=G, leak=torch.linspace(0.1, 1, H)), (T, B, I), 1),
        "GammaRNN with a trained leak": (GammaRNN(I, H, leak=0.3, train_leak=True), (T, B, I), 1),
        "ARUNCell": (ARUNCell(I, H, controller_size=G), (B, I), 0),
        "Gamma": (Gamma(), (B, I), 0),
    }[case]
    module.eval()
    shapes = ({dim: Dim("B")},)
    torch.onnx.export(
        module, (torch.randn(shape),), str(tmp_path / "m.onnx"), dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for size in (B, 1, 6):
        x = torch.randn(*shape[:dim], size, *shape[dim + 1 :])
        expected = module(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        (actual, *_) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert_close("output", torch.from_numpy(actual), expected.detach(), "sequence")
