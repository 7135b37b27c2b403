"""Figure 3: n and s of the neurons, and how they depend on the noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from aru_lab.analysis.fits import CURVES
from aru_lab.plots.paper.measured import HOMOGENEOUS, MAIN, RETRAINING, Arrays, Measured, common, needed
from aru_lab.plots.style import BLACK, DARK, GREY, MODELS, PAGE, PURPLE, blank, drive_scale, letter, new_figure

HETEROGENEOUS = "gamma-heterogeneous"
FORMS = {"n": ("power", "a ξ$^{-b}$ + c"), "s": ("exponential", "a e$^{-bξ}$ + c")}


def heterogeneity(measured: Measured) -> Any:
    """(n, s) of the neurons after training and after retraining (a), and n and s against the noise (b)."""
    trained = _trained(measured)
    retrained = _retrained(measured)
    noise = measured.files("gain-scaling", "arun")
    if trained is None and retrained is None and not noise:
        raise needed("3", "run with these analyses", "heterogeneity", "gain-scaling")
    figure = new_figure(3.9, PAGE)
    panels = figure.subplot_mosaic([["a", "n", "s"], ["a2", "n", "s"]], width_ratios=(1, 1, 1))
    _moved(panels["a"], trained, ("start", "trained"), "training", MODELS[HETEROGENEOUS][1], "s")
    _moved(panels["a2"], retrained, ("upright", "45°"), "retraining", PURPLE, "D")
    for name in FORMS:
        if noise:
            _against_noise(panels[name], noise, name)
        else:
            blank(panels[name])
    for panel, text in (("a", "a"), ("n", "b")):
        letter(panels[panel], text)
    return figure


def _trained(measured: Measured) -> Arrays | None:
    """The neurons of the first network that started with one n, or of the first heterogeneous one."""
    for group in (HOMOGENEOUS, MAIN):
        for of in measured.files("heterogeneity", HETEROGENEOUS, group=group):
            return of
    return None


def _retrained(measured: Measured) -> Arrays | None:
    """The neurons of the first network that was retrained on rotated images."""
    for of in measured.records.get((MAIN, HETEROGENEOUS, RETRAINING), {}).values():
        return of
    for of in measured.files("heterogeneity", HETEROGENEOUS):
        if "retrained" in of["moments"]:
            moments = {"before": "after", "after": "retrained"}
            return {f"{name}_{new}": of[f"{name}_{old}"] for name in "ns" for new, old in moments.items()}
    return None


def _moved(axes: Any, neurons: Arrays | None, moments: tuple[str, str], title: str, colour: str, mark: str) -> None:
    """Every neuron before and after, joined by a line, and the centre of mass after."""
    if neurons is None:
        blank(axes)
        return
    n, s = (np.stack([neurons[f"{name}_before"], neurons[f"{name}_after"]]) for name in "ns")
    axes.plot(n, s, color=GREY, linewidth=0.4, zorder=1)
    alike = max(np.ptp(n[0]), np.ptp(s[0])) == 0  # one start
    before = ("*", 7, 3) if alike else (".", 2.5, 2)
    axes.plot(n[0], s[0], before[0], color=BLACK, markersize=before[1], label=moments[0], zorder=before[2])
    ring = {"fillstyle": "none", "markersize": 3, "markeredgewidth": 0.7}  # a ring hides no dot
    axes.plot(n[1], s[1], mark, color=colour, label=moments[1], zorder=2, **ring)
    axes.plot(n[1].mean(), s[1].mean(), "X", color=colour, markeredgecolor=BLACK, markersize=6, label="mean", zorder=4)
    axes.set(xlabel="gain n", ylabel="saturation s")
    axes.set_title(title, fontsize=7, loc="right")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.25 * (high - low))  # room for the legend
    axes.legend(loc="upper left", ncols=3, borderpad=0, handlelength=0.8, handletextpad=0.3, columnspacing=0.7)


def _against_noise(axes: Any, files: list[Arrays], name: str) -> None:
    """The change of n or s from low noise, a line for each seed, with the fit of the claimed form dashed."""
    form, formula = FORMS[name]
    xi, fitted = common("amplitudes", files), common("fit_amplitudes", files)
    k = list(FORMS).index(name)
    fine = np.geomspace(fitted[0], fitted[-1], 200)
    rises, favoured = [], 0
    for content in files:
        course = content[name].mean(1)
        base = course[0]
        up = course[-1] > course[np.flatnonzero(xi == fitted[0])[0]]
        rises.append(up)
        mark = {"marker": "^" if up else "v", "fillstyle": "full" if up else "none", "linestyle": "-", "linewidth": 0.4}
        axes.plot(xi, course - base, color=MODELS["arun"][1], label="rises" if up else "falls", **mark)
        parameters = content["parameters"][k, 0]
        if np.isfinite(parameters).all():
            axes.plot(fine, CURVES[form](fine, *parameters) - base, "--", color=DARK, linewidth=0.8)
        favoured += best_form(content, k) == form
    axes.axhline(0, color=GREY, linewidth=0.7, zorder=0)
    drive_scale(axes, xi)
    axes.set(xlabel="deviation ξ of the noise", ylabel=f"{name}(ξ) - {name}(low noise)")
    said = f"{name}: {sum(rises)} seeds rise, {len(rises) - sum(rises)} fall"
    axes.set_title(f"{said}\n{formula} fits best in {favoured}", fontsize=7, loc="right")


def best_form(content: Arrays, k: int) -> str:
    """The fitted form with the lowest AICc; empty where no fit was possible."""
    criteria = content["fit_aicc"][k]
    return str(content["fit_curves"][np.nanargmin(criteria)]) if np.isfinite(criteria).any() else ""
