"""What trained networks have learned: the paper's analyses, one module each, on arrays or on any ARUN or GammaRNN.

Equations and protocols: Geadah, Horoi, Kerg, Wolf, Lajoie, PLOS Computational Biology 2024; docs/analysis.md lists
every analysis with its command, its call and the source of its equation. Nothing is imported here; take what you need
from its own module, for example `from aru_lab.analysis.lyapunov import network_exponents`.

Sizes: T time steps, B batch, H neurons, G controller units, A amplitudes, R repeats, k exponents.
"""
