"""One style for every figure: sizes, colours, names of models, axes, files.

Colours of models and curves are those of Okabe and Ito, of amplitudes cividis: both can be told apart with every common
form of colour vision. Figures are as wide as a column or a page and hold no letters below 7 points.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from aru_lab.errors import RunError
from aru_lab.runs.folder import write_result
from aru_lab.terminal import visible

BLACK, GREY, ORANGE, BLUE, VERMILION = "#000000", "#8A8A8A", "#E69F00", "#0072B2", "#D55E00"
SKY, GREEN = "#56B4E9", "#009E73"
DARK = "#4D4D4D"  # what no model stands for: letters, marks, fits
PURPLE = "#CC79A7"  # neither a model's nor an amplitude's

COLUMN, PAGE = 8.5 / 2.54, 17 / 2.54  # inches
DPI = 300

# One look a model, whatever models a figure shows: colour, marker and dash, so that print in grey tells them apart too.
LOOKS = {
    "arun": (VERMILION, "o", "-"),
    "gamma-heterogeneous": (BLUE, "s", "-"),
    "gamma-homogeneous": (SKY, "D", "--"),
    "relu": (BLACK, "^", "-"),
    "lstm": (ORANGE, "v", "--"),
    "gru": (GREEN, "P", ":"),
}
NAMES = {
    "arun": "ARUN",
    "gamma-heterogeneous": "RNN+γ heterogeneous",
    "gamma-homogeneous": "RNN+γ homogeneous",
    "relu": "RNN+ReLU",
    "lstm": "LSTM",
    "gru": "GRU",
}
_SHORT = {
    "arun": "ARUN",
    "gamma-heterogeneous": "RNN+γ het.",
    "gamma-homogeneous": "RNN+γ hom.",
    "relu": "RNN+ReLU",
    "lstm": "LSTM",
    "gru": "GRU",
}
# name in a legend, colour, marker
MODELS = {model: (name, *LOOKS[model][:2]) for model, name in _SHORT.items()}

_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "pdf.fonttype": 42,  # letters stay letters
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings within the block."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(height: float, width: float = PAGE) -> Any:
    """A figure `width` inches wide and `height` inches high."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def save(figure: Any, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf, each whole or not at all.

    Raises:
        RunError: a file can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder}: the folder can't be made ({error.strerror}); choose another --output.") from error
    paths = []
    figure.draw_without_rendering()  # lays the panels out, once for both files
    figure.set_layout_engine("none")
    # Without dates and versions the same data give the same bytes.
    for kind, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Producer": None})):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, metadata=metadata)
        paths.append(folder / f"{name}.{kind}")
        write_result(buffer.getvalue(), paths[-1])
    return paths


def save_picture(figure: Any, path: Path) -> None:
    """Write a figure to `path`, whose suffix names the format.

    Raises:
        RunError: the file can't be written.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # of names in other scripts
        figure.savefig(buffer, format=path.suffix[1:])
    write_result(buffer.getvalue(), path)


def as_label(name: str) -> str:
    """Escape a name for matplotlib, so that it is not read as a formula and is never left out of a legend.

    Of a long name the middle is left out, for it would leave no room for the axes.
    """
    shown = visible(name)
    shown = (shown if len(shown) <= 60 else f"{shown[:28]}…{shown[-28:]}").replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def letter(axes: Any, text: str) -> None:
    """The panel's letter, at its upper left."""
    axes.set_title(text, loc="left", fontweight="bold", fontsize=9)


def blank(axes: Any) -> None:
    """A panel of what was not measured."""
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])


def amplitude_colours(amplitudes: Sequence[float]) -> list[Any]:
    """A colour for each amplitude by its rank: dark blue for the lowest, yellow-brown for the highest."""
    import matplotlib

    return list(matplotlib.colormaps["cividis"](np.linspace(0, 0.92, max(len(amplitudes), 2))))[: len(amplitudes)]


def amplitude_bar(figure: Any, axes: Any, amplitudes: Sequence[float], label: str, aspect: float = 30) -> None:
    """A colour bar with one step for each amplitude, beside `axes`; `aspect` is its height over its width."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    count = len(amplitudes)
    mappable = ScalarMappable(BoundaryNorm(np.arange(count + 1), count), ListedColormap(amplitude_colours(amplitudes)))
    bar = figure.colorbar(mappable, ax=axes, aspect=aspect, pad=0.02, ticks=np.arange(count) + 0.5)
    bar.ax.set_yticklabels([f"{x:.3g}" for x in amplitudes])
    bar.ax.tick_params(length=0)
    bar.set_label(label)
    bar.outline.set_visible(False)


def drive_scale(axes: Any, amplitudes: Sequence[float]) -> None:
    """An x axis for drives: linear from 0 to the smallest positive drive, then logarithmic."""
    positive = [x for x in amplitudes if x > 0]
    axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
    ticks = [
        *([0.0] if min(amplitudes) == 0 else []),
        *(x for x in (0.1, 0.5, 1, 2.5, 5, 10, 30, 100) if positive[0] <= x <= positive[-1]),
    ]
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    axes.minorticks_off()
    # Room for the markers of curves that lie apart.
    axes.set_xlim(-0.3 * positive[0] if min(amplitudes) == 0 else 0.8 * positive[0], 1.4 * positive[-1])


def plain_log(axis: Any) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers, on a logarithmic axis."""
    from matplotlib import ticker

    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def shade(axes: Any, onset: int, end: int) -> None:
    """Marks the driven steps."""
    axes.axvspan(onset, end, color=GREY, alpha=0.18, linewidth=0)


def apart(axes: Any, place: int, count: int) -> Any:
    """The transform of curve `place` of `count`: that of the data, moved sideways by a point or two.

    So no bar and no dot hides one of another curve, on any scale; the data of the curve stay as they are.
    """
    from matplotlib.transforms import ScaledTranslation

    points = 1.4 * (place - (count - 1) / 2)
    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)


def line_with_spread(
    axes: Any, x: Any, runs: Sequence[np.ndarray], place: int = 0, count: int = 1, **options: Any
) -> None:
    """The mean of several runs with bars of their standard deviation; a single run has no bars.

    Args:
        axes: where to draw.
        x: (points,).
        runs: one array (points,) a run.
        place: of this curve among the `count` curves of the panel, see `apart`.
        count: number of curves.
        options: of matplotlib's `errorbar`.
    """
    values = np.stack(list(runs))
    mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else None
    bars_apart(axes, x, mean, spread, place, count, **options)


def bars_apart(axes: Any, x: Any, y: Any, error: Any, place: int, count: int, **options: Any) -> None:
    """A curve with error bars (points,) or (2, points) or None, moved sideways as `apart` says."""
    x = np.asarray(x)
    axes.errorbar(x, y, error, elinewidth=0.7, transform=apart(axes, place, count), **options)
    for end in np.atleast_2d(0 if error is None else error) * [[-1], [1]]:
        axes.update_datalim(np.column_stack(np.broadcast_arrays(x, y + end)))  # the moved curve sets no limits
    axes.autoscale_view()
