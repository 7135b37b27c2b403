"""What operators and backends hand to each other, by name.

For each operation: `...Inputs` are the tensors it differentiates, `...Settings` its other arguments, and `...Options`
the settings together with what was decided for one call. `...States` is what a backend's forward kernel returns.
`...Outputs` is what callers see; the backward pass starts from the same fields, as gradients that may be None.
`...Saved` is what the backward pass reads.

Sizes: T time steps, B batch, H neurons, G controller units. `precision` is that of float32 products, in the words of
`torch.set_float32_matmul_precision`; it belongs to the options so that the backward pass finds the state as the forward
pass left it. `kept` is state for the backward pass, in a layout of the backend's own.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor


class Controller(NamedTuple):
    """The controller's weights, shared by all neurons."""

    weight_ag: Tensor  # (G,)
    weight_gg: Tensor  # (G, G)
    bias_g: Tensor  # (G,)
    weight_gc: Tensor  # (2, G), row 0 for n, row 1 for s
    bias_c: Tensor  # (2,)


class WithController(Protocol):
    """Arguments that contain the controller's weights."""

    @property
    def weight_ag(self) -> Tensor: ...
    @property
    def weight_gg(self) -> Tensor: ...
    @property
    def bias_g(self) -> Tensor: ...
    @property
    def weight_gc(self) -> Tensor: ...
    @property
    def bias_c(self) -> Tensor: ...


def controller_of(arguments: WithController) -> Controller:
    """The controller's weights among the arguments."""
    return Controller(arguments.weight_ag, arguments.weight_gg, arguments.bias_g, arguments.weight_gc, arguments.bias_c)


class GammaInputs(NamedTuple):
    """Inputs of γ."""

    x: Tensor  # any shape
    n: Tensor  # broadcasts to x's shape
    s: Tensor  # likewise


class GammaOptions(NamedTuple):
    """Settings and options of γ."""

    n_floor: float


class GammaOutputs(NamedTuple):
    """Outputs of γ, or their gradients."""

    y: Tensor  # x's shape and memory order


class GammaSaved(NamedTuple):
    """What γ's backward pass reads: its inputs."""

    x: Tensor
    n: Tensor
    s: Tensor


class StepInputs(NamedTuple):
    """Inputs of one step of the controller together with γ; every neuron of every sequence is on its own."""

    a: Tensor  # (..., H)
    g: Tensor  # (..., H, G)
    weight_ag: Tensor
    weight_gg: Tensor
    bias_g: Tensor
    weight_gc: Tensor
    bias_c: Tensor


class StepSettings(NamedTuple):
    """Settings of a controller step."""

    n_floor: float


class StepOptions(NamedTuple):
    """Options of a controller step."""

    n_floor: float
    precision: str
    keep: bool  # whether a backward pass follows


class StepOutputs(NamedTuple):
    """Outputs of a controller step, or their gradients."""

    h: Tensor | None  # (..., H)
    g: Tensor | None  # (..., H, G), the next state
    n: Tensor | None  # (..., H)
    s: Tensor | None


class StepStates(NamedTuple):
    """Results of a backend's controller step."""

    h: Tensor
    g: Tensor
    n: Tensor
    s: Tensor
    kept: Tensor


class StepSaved(NamedTuple):
    """What the backward pass of a controller step reads."""

    a: Tensor
    g: Tensor
    weight_ag: Tensor
    weight_gg: Tensor
    bias_g: Tensor
    weight_gc: Tensor
    bias_c: Tensor
    n: Tensor
    s: Tensor
    kept: Tensor


class SequenceSettings(NamedTuple):
    """Settings of a sequence."""

    n_floor: float
    trace: bool  # whether a (and n, s) of every step are asked for


class AruInputs(NamedTuple):
    """Inputs of the adaptive network's sequence."""

    xp: Tensor  # (T, B, H), the input projection with bias and drive
    h0: Tensor  # (B, H)
    g0: Tensor  # (B, H, G)
    weight_hh: Tensor  # (H, H)
    weight_ag: Tensor
    weight_gg: Tensor
    bias_g: Tensor
    weight_gc: Tensor
    bias_c: Tensor


class LeakyAruInputs(NamedTuple):
    """Inputs of the adaptive network's sequence with a leak."""

    xp: Tensor  # (T, B, H), the input projection with bias and drive
    h0: Tensor  # (B, H)
    g0: Tensor  # (B, H, G)
    weight_hh: Tensor  # (H, H)
    weight_ag: Tensor
    weight_gg: Tensor
    bias_g: Tensor
    weight_gc: Tensor
    bias_c: Tensor
    leak: Tensor  # (H,)


class AruOptions(NamedTuple):
    """Options of the adaptive network's sequence."""

    n_floor: float
    precision: str
    segment: int  # K: the controller's state is kept before every K-th step; 0 where no backward pass follows
    trace: bool


class AruOutputs(NamedTuple):
    """Outputs of the adaptive network's sequence, or their gradients."""

    h: Tensor | None  # (T, B, H)
    h_last: Tensor | None  # (B, H), a result of its own: the gradient of h would be zero at all other steps
    g: Tensor | None  # (B, H, G), after the last step
    a: Tensor | None  # (T, B, H), or (0,) where neither the trace nor a gradient needs it; n and s likewise
    n: Tensor | None
    s: Tensor | None


class AruStates(NamedTuple):
    """Results of a backend's sequence of the adaptive network."""

    h: Tensor
    g: Tensor
    a: Tensor
    n: Tensor
    s: Tensor
    kept: Tensor


class AruSaved(NamedTuple):
    """What the backward pass of the adaptive network's sequence reads."""

    h0: Tensor
    g0: Tensor
    weight_hh: Tensor
    weight_ag: Tensor
    weight_gg: Tensor
    bias_g: Tensor
    weight_gc: Tensor
    bias_c: Tensor
    h: Tensor
    a: Tensor
    n: Tensor
    s: Tensor
    kept: Tensor


class LeakyAruSaved(NamedTuple):
    """What the backward pass of the adaptive network's sequence with a leak reads."""

    h0: Tensor
    g0: Tensor
    weight_hh: Tensor
    weight_ag: Tensor
    weight_gg: Tensor
    bias_g: Tensor
    weight_gc: Tensor
    bias_c: Tensor
    h: Tensor
    a: Tensor
    n: Tensor
    s: Tensor
    kept: Tensor
    leak: Tensor  # (H,)


class GammaRnnInputs(NamedTuple):
    """Inputs of the static network's sequence."""

    xp: Tensor  # (T, B, H), the input projection with bias and drive
    h0: Tensor  # (B, H)
    weight_hh: Tensor  # (H, H)
    n: Tensor  # (), (1,) or (H,)
    s: Tensor  # likewise


class LeakyGammaRnnInputs(NamedTuple):
    """Inputs of the static network's sequence with a leak."""

    xp: Tensor  # (T, B, H), the input projection with bias and drive
    h0: Tensor  # (B, H)
    weight_hh: Tensor  # (H, H)
    n: Tensor  # (), (1,) or (H,)
    s: Tensor  # likewise
    leak: Tensor  # (H,)


class GammaRnnOptions(NamedTuple):
    """Options of the static network's sequence."""

    n_floor: float
    precision: str
    keep: bool  # whether a is a result: for the trace or for a backward pass


class GammaRnnOutputs(NamedTuple):
    """Outputs of the static network's sequence, or their gradients."""

    h: Tensor | None  # (T, B, H)
    h_last: Tensor | None  # (B, H)
    a: Tensor | None  # (T, B, H), or (0,)


class GammaRnnStates(NamedTuple):
    """Results of a backend's sequence of the static network."""

    h: Tensor
    a: Tensor


class GammaRnnSaved(NamedTuple):
    """What the backward pass of the static network's sequence reads."""

    h0: Tensor
    weight_hh: Tensor
    n: Tensor
    s: Tensor
    h: Tensor
    a: Tensor


class LeakyGammaRnnSaved(NamedTuple):
    """What the backward pass of the static network's sequence with a leak reads."""

    h0: Tensor
    weight_hh: Tensor
    n: Tensor
    s: Tensor
    h: Tensor
    a: Tensor
    leak: Tensor  # (H,)


def leak_of(arguments: NamedTuple) -> Tensor | None:
    """The leak (H,) among the inputs or saved tensors of a sequence, or None."""
    return getattr(arguments, "leak", None)
