"""Adaptive recurrent units: a shared controller sets the gain and saturation of every neuron at every time step."""

from aru_kernels import constraints, convert, functional, init, noise
from aru_kernels._version import __version__
from aru_kernels.backends import backends_info, use_backend
from aru_kernels.modules import ARUN, AdaptiveGamma, ARUNCell, Gamma, GammaRNN, GammaRNNCell
from aru_kernels.parameter_groups import parameter_groups
from aru_kernels.reference import Trace

__all__ = [
    "ARUN",
    "ARUNCell",
    "AdaptiveGamma",
    "Gamma",
    "GammaRNN",
    "GammaRNNCell",
    "Trace",
    "__version__",
    "backends_info",
    "constraints",
    "convert",
    "functional",
    "init",
    "noise",
    "parameter_groups",
    "use_backend",
]
