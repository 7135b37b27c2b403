"""Figure 1: the activations γ."""

from __future__ import annotations

from typing import Any

import torch

from aru_kernels.functional import gamma
from aru_lab.plots.paper.measured import Measured
from aru_lab.plots.style import PAGE, amplitude_colours, letter, new_figure


def activations(_: Measured) -> Any:
    """γ(x; n, s) for several gains n and for several saturations s."""
    figure = new_figure(2.2, PAGE)
    axes = figure.subplots(1, 2, sharey=True)
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    panels = (
        ("n", (1.0, 2.0, 5.0, 20.0), lambda n: (n, 0.0), "gain n, with s = 0"),
        ("s", (0.0, 0.25, 0.5, 0.75, 1.0), lambda s: (5.0, s), "saturation s, with n = 5"),
    )
    for panel, (symbol, values, shape, title) in zip(axes, panels, strict=True):
        for value, colour in zip(values, amplitude_colours(values), strict=True):
            panel.plot(x, gamma(x, *shape(value)), color=colour, label=f"{symbol} = {value:g}")
        panel.set(xlabel="input current x", title=title)
        panel.legend(loc="upper left", borderpad=0)
    letter(axes[0], "a")  # both are the paper's
    axes[0].set_ylabel("γ(x; n, s)")
    return figure
