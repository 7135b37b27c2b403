"""`aru figure`: pictures from the files of runs, with the files' numbers in them."""

from __future__ import annotations

import dataclasses
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from aru_lab.cli import main
from aru_lab.errors import ConfigError, RunError
from aru_lab.experiments.analyse import analyse
from aru_lab.networks.perturbations import StepDrive
from aru_lab.plots.paper import FIGURES as ALL
from aru_lab.plots.paper import OF_THE_PAPER, OTHERS, WITHOUT_RUNS
from aru_lab.plots.paper.draw import DRAWINGS, draw
from aru_lab.plots.paper.heterogeneity import best_form
from aru_lab.plots.paper.measured import MAIN, Analysed, Measured
from aru_lab.plots.paper.stability import STILL
from aru_lab.plots.style import COLUMN, DARK, DPI, GREY, MODELS, PAGE, PURPLE, style
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.scores import known_scores
from aru_lab.runs.sensitivity import axes_of

from .conftest import SETTINGS, STRENGTHS, quiet

# those of the analyses that need no request and no trials
FIGURES = tuple(name for name in ALL if name not in ("psychometric", "trajectories", "fixed-points"))
XI = np.array(SETTINGS.amplitudes)


@pytest.fixture(scope="module")
def runs(analysed: dict[str, Path]) -> list[Path]:
    return [analysed[name] for name in ("relu", "arun", "lstm", "arun1", "gamma-heterogeneous")]


@pytest.fixture
def styled() -> Iterator[None]:
    with style():
        yield


def drawn(number: str, runs: list[Path]) -> Figure:
    drawing, models = DRAWINGS[number]
    found = [Analysed(AnalysisFolder(run), run.name.rstrip("1"), "sdigits") for run in runs]
    return drawing(Measured(runs={MAIN: [run for run in found if run.model in models]}))


def loaded(run: Path, part: str) -> dict[str, np.ndarray]:
    return AnalysisFolder(run).load(part)


def panels(figure: Figure) -> dict[str, Any]:
    """The panels by their letters."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.get_title(loc="left")}


def lines(axes: Any, label: str) -> list[Any]:
    """Curves of this name, or of the error bars of this name."""
    containers = [c.lines[0] for c in axes.containers if c.get_label() == label and hasattr(c, "lines")]
    return [line for line in axes.lines if line.get_label() == label] + containers


def bars(axes: Any, label: str) -> np.ndarray:
    """Lower and upper ends of the error bars of this name: (2, points)."""
    (container,) = [c for c in axes.containers if c.get_label() == label]
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()]).T


def test_command_and_drawings_agree_on_the_names() -> None:
    assert set(DRAWINGS) == {*OF_THE_PAPER, *OTHERS}
    assert list(ALL) == [number for number in DRAWINGS if number not in WITHOUT_RUNS]
    assert tuple("123456") + tuple(str(number) for number in range(9, 19)) == OF_THE_PAPER


@pytest.fixture(scope="module")
def pictures(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Every figure, drawn from run folders that have lost their checkpoints."""
    folder = tmp_path_factory.mktemp("pictures")
    copies = [Path(shutil.copytree(run, folder / run.name, ignore=shutil.ignore_patterns("*.pt"))) for run in runs]
    return {number: draw(number, copies, folder / "figures" / number) for number in FIGURES}


@pytest.mark.parametrize("number", FIGURES)
def test_figure_is_a_picture_as_wide_as_a_column_or_a_page(pictures: dict[str, list[Path]], number: str) -> None:
    png, pdf = pictures[number]
    assert (png.name, pdf.name) == (f"figure-{number}.png", f"figure-{number}.pdf")
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert min(abs(width - inches * DPI) for inches in (COLUMN, 0.5 * (COLUMN + PAGE), PAGE)) <= 1
    assert 0.3 * width < height < 1.5 * width
    assert len(content) > 20_000
    assert pdf.read_bytes().startswith(b"%PDF")
    assert sorted(png.parent.iterdir()) == sorted((png, pdf))


@pytest.mark.parametrize("number", ["2", "5"])
def test_same_files_give_the_same_bytes(
    pictures: dict[str, list[Path]], runs: list[Path], tmp_path: Path, number: str
) -> None:
    assert [path.read_bytes() for path in draw(number, runs, tmp_path)] == [
        path.read_bytes() for path in pictures[number]
    ]


@pytest.fixture(scope="module")
def figures(runs: list[Path]) -> dict[str, Figure]:
    """Every figure but those that need scores."""
    with style():
        return {number: drawn(number, runs) for number in FIGURES if number != "2"}


@pytest.mark.parametrize("number", [number for number in FIGURES if number != "2"])
def test_letters_are_readable_and_panels_named(figures: dict[str, Figure], number: str) -> None:
    figure = figures[number]
    figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(lambda x: hasattr(x, "get_fontsize")) if text.get_text()]
    assert min(sizes) >= 7
    letters = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert letters == sorted(letters)
    assert letters[0] == ("A" if number == "6" else "a")  # as in the paper


@pytest.mark.parametrize("number", [number for number in FIGURES if number not in ("1", "2")])
def test_legends_and_titles_cover_no_panel(figures: dict[str, Figure], number: str) -> None:
    """Legends beside the axes overlap no panel, and no title reaches into another panel."""
    figure = figures[number]
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.axison]
    for legend in [*figure.legends, *(legend for sub in figure.subfigs for legend in sub.legends)]:
        box = legend.get_window_extent()
        assert not [axes for axes in shown if axes.get_window_extent().padded(-2).overlaps(box)]
    for axes in shown:
        for title in (axes.title, axes._left_title, axes._right_title):
            box = title.get_window_extent().padded(-1)
            others = [other for other in shown if other is not axes]
            assert not title.get_text() or not [x for x in others if x.get_window_extent().padded(-1).overlaps(box)]
        left, right = (title.get_window_extent() for title in (axes._left_title, axes._right_title))
        if axes._left_title.get_text() and axes._right_title.get_text():
            assert left.x1 < right.x0 + 1 or left.y1 < right.y0
        if axes.get_legend():
            assert not left.overlaps(axes.get_legend().get_window_extent())


def test_activations_are_those_of_gamma(styled: None) -> None:
    left, right = drawn("1", []).axes
    x = np.linspace(-2, 2, 401)
    np.testing.assert_allclose(lines(left, "n = 2")[0].get_ydata(), np.log1p(np.exp(2 * x)) / 2, atol=1e-12)
    np.testing.assert_allclose(lines(right, "s = 1")[0].get_ydata(), 1 / (1 + np.exp(-5 * x)), atol=1e-12)


def test_robustness_from_the_scores_of_runs(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sweeps of `aru robustness`, means over the seeds with their deviation."""
    shown: list[Figure] = []
    monkeypatch.setattr("aru_lab.plots.paper.draw.save", lambda figure, *_: shown.append(figure) or [])
    draw("2", runs, tmp_path)
    (figure,) = shown
    step, contrast = figure.axes[1], figure.axes[3]
    by_name = {axis.name: axis for axis in axes_of(STRENGTHS, 64)}
    for panel, name in ((step, "step-amplitude"), (contrast, "contrast-amplitude")):
        points = by_name[name].perturbations
        values = np.array(
            [[100 * x.accuracy for x in known_scores(runs[i], list(points.values()), 50)] for i in (1, 3)]
        )
        (line,) = lines(panel, "ARUN")
        np.testing.assert_allclose(line.get_xdata(), list(points))
        np.testing.assert_allclose(line.get_ydata(), values.mean(0))
        spread = values.std(0, ddof=1)
        np.testing.assert_allclose(bars(panel, "ARUN"), values.mean(0) + np.outer([-1, 1], spread), atol=1e-12)
        for label in ("RNN+ReLU", "LSTM", "RNN+γ het."):
            assert len(lines(panel, label)) == 1
        left, right = panel.get_xlim()
        assert left < min(points) < max(points) < right
    assert step.get_title(loc="right") == "sdigits"
    assert list(panels(figure)) == ["a", "b"]


@pytest.mark.parametrize("number", ["4", "5", "18"])
def test_no_curve_hides_another(figures: dict[str, Figure], number: str) -> None:
    """Curves with equal values lie beside each other, and there are no bands that could cover one."""
    for panel in figures[number].axes:
        bands = ("PolyCollection", "FillBetweenPolyCollection")
        assert not [c for c in panel.collections if type(c).__name__ in bands]
        curves = [c.lines[0] for c in panel.containers if hasattr(c, "lines")]
        places = [line.get_transform().transform((0.0, 1.0))[0] for line in curves]
        assert len({round(x, 6) for x in places}) == len(curves)


def test_neurons_before_and_after_training(figures: dict[str, Figure], runs: list[Path]) -> None:
    upper = panels(figures["3"])["a"]
    saved = loaded(runs[4], "heterogeneity")
    for label, when in (("start", "before"), ("trained", "after")):
        (line,) = lines(upper, label)
        np.testing.assert_array_equal(line.get_xdata(), saved[f"n_{when}"])
        np.testing.assert_array_equal(line.get_ydata(), saved[f"s_{when}"])
    (mean,) = lines(upper, "mean")
    np.testing.assert_allclose(mean.get_xdata(), saved["n_after"].mean())


def test_gain_scaling_of_every_seed_rising_or_falling(figures: dict[str, Figure], runs: list[Path]) -> None:
    figure = figures["3"]
    for k, name in enumerate("ns"):
        (panel,) = [axes for axes in figure.axes if axes.get_ylabel().startswith(f"{name}(ξ)")]
        files = [loaded(runs[i], "gain-scaling") for i in (1, 3)]
        courses = [of[name].mean(1) for of in files]
        rises = [course[-1] > course[list(XI).index(1.0)] for course in courses]
        shown = [line for line in panel.lines if line.get_marker() in ("^", "v")]
        assert [line.get_marker() for line in shown] == ["^" if up else "v" for up in rises]
        for line, course in zip(shown, courses, strict=True):
            np.testing.assert_allclose(line.get_ydata(), course - course[0])
        title = panel.get_title(loc="right")
        assert title.startswith(f"{name}: {sum(rises)} seeds rise, {2 - sum(rises)} fall\n")
        favoured = sum(best_form(of, k) == ("power", "exponential")[k] for of in files)
        assert title.endswith(f"fits best in {favoured}")


def test_courses_of_n_and_s_in_the_network(figures: dict[str, Figure], runs: list[Path]) -> None:
    saved = loaded(runs[1], "adaptation")
    gains = panels(figures["4"])["a"]
    for i, xi in enumerate(XI):
        (line,) = lines(gains, f"{xi:g}")
        np.testing.assert_array_equal(line.get_ydata(), saved["n"][i])
    (shaded,) = gains.patches
    assert (shaded.get_x(), shaded.get_width()) == (saved["onset"], saved["end"] - saved["onset"])


@pytest.mark.parametrize(("name", "c", "where"), [("b", 0, "network"), ("c", 1, "isolated")])
def test_orders_and_mean_responses_by_their_sign(
    figures: dict[str, Figure], runs: list[Path], name: str, c: int, where: str
) -> None:
    figure = figures["4"]
    top = panels(figure)[name]
    rates, orders = (loaded(runs[1], part) for part in ("responses", "fractional"))
    np.testing.assert_allclose(top.lines[0].get_xdata()[0], orders["order_of_mean"][c, -1])
    above = orders["order"][c, -1] > 0
    for chosen, sign in ((above, "> 0"), (~above, "≤ 0")):
        (panel,) = [
            axes
            for axes in figure.axes
            if axes.get_title(loc="right") == f"α {sign}: {chosen.sum()} neurons" and axes.figure is top.figure
        ]
        assert len(panel.lines) == chosen.any()
        for line in panel.lines:
            np.testing.assert_allclose(line.get_ydata(), rates[f"h_{where}"][-1][:, chosen].mean(1))


def test_orders_against_the_amplitude(figures: dict[str, Figure], runs: list[Path]) -> None:
    """The mean over seeds and its 95% interval."""
    against = panels(figures["4"])["d"]
    values = np.array([loaded(runs[i], "fractional")["order_of_mean"][1] for i in (1, 3)])
    (label,) = [c.get_label() for c in against.containers if c.get_label().endswith("N = 2")]
    (line,) = lines(against, label)
    np.testing.assert_array_equal(line.get_xdata(), XI[1:])
    np.testing.assert_allclose(line.get_ydata(), values.mean(0))
    half = stats.t.ppf(0.975, 1) * values.std(0, ddof=1) / np.sqrt(2)
    np.testing.assert_allclose(bars(against, label), values.mean(0) + np.outer([-1, 1], half), atol=1e-12)


def test_a_colour_means_one_thing(figures: dict[str, Figure]) -> None:
    """A model's colour is on curves of this model only."""
    names = {colour: name for name, colour, _ in MODELS.values()}
    for colour in (DARK, PURPLE, GREY):
        assert colour not in names
    exponents = panels(figures["5"])["d"]
    for container in exponents.containers:
        owner = names.get(container.lines[0].get_color())
        assert owner is None or container.get_label().startswith(owner)
    at_rest = lines(exponents, "ARUN at rest")[0]
    assert at_rest.get_color() not in names
    gains = panels(figures["4"])["a"]
    assert not {line.get_color() for line in gains.lines if isinstance(line.get_color(), str)} & names.keys()


def test_settled_and_moving_controllers_are_told_apart(figures: dict[str, Figure], runs: list[Path]) -> None:
    plane = panels(figures["5"])["a"]
    saved = loaded(runs[1], "controller")
    moves = saved["speed"].max(1) > STILL
    squares = [line for line in plane.lines if line.get_marker() == "s"]
    assert [isinstance(line.get_markerfacecolor(), str) for line in squares] == list(moves)  # white, or its colour
    for i, line in enumerate(squares):
        wanted = saved["steady_scores"][i] if moves[i] else saved["scores"][i, -1]
        np.testing.assert_allclose((line.get_xdata()[0], line.get_ydata()[0]), wanted[:2], rtol=1e-6)


def test_boundaries_in_the_title_are_those_in_the_axes(figures: dict[str, Figure]) -> None:
    visited = panels(figures["5"])["b"]
    low, high = visited.get_ylim()
    boundaries = [line for line in visited.lines if line.get_linestyle() == "--"]
    for line in boundaries:
        assert ((line.get_ydata() >= low) & (line.get_ydata() <= high)).any()
    colours = {tuple(line.get_color()) for line in boundaries}
    said = f"boundaries of {len(colours)} of {len(XI)} ξ" if boundaries else "no boundary within the axes"
    assert said in visited.get_title(loc="right")


def test_exponents_against_time_and_amplitude(figures: dict[str, Figure], runs: list[Path]) -> None:
    course, exponents = (panels(figures["5"])[name] for name in "cd")
    saved = loaded(runs[1], "lyapunov")
    for i, xi in enumerate(XI):
        (line,) = lines(course, f"ξ = {xi:g}")
        np.testing.assert_array_equal(line.get_xdata(), saved["times"])
        np.testing.assert_allclose(line.get_ydata(), saved["course"][i].mean(-1))
    static = loaded(runs[4], "lyapunov")
    np.testing.assert_allclose(lines(exponents, "RNN+γ het.")[0].get_ydata(), static["exponents"][0, :, 0])
    adaptive = [loaded(runs[i], "lyapunov")["exponents"] for i in (1, 3)]
    for i, label in enumerate(("ARUN", "ARUN at rest")):
        np.testing.assert_allclose(lines(exponents, label)[0].get_ydata(), np.mean([x[i, :, 0] for x in adaptive], 0))


def test_spectra_of_every_model(figures: dict[str, Figure], runs: list[Path]) -> None:
    spectra = [axes for axes in figures["5"].axes if axes.get_xlabel().startswith("Re")]
    for panel, run in zip(spectra, (runs[1], runs[4], runs[0]), strict=True):
        saved = loaded(run, "spectrum")
        _, after, before = panel.lines
        np.testing.assert_array_equal(after.get_xdata() + 1j * after.get_ydata(), saved["after"])
        np.testing.assert_array_equal(before.get_xdata() + 1j * before.get_ydata(), saved["before"])
        assert after.get_fillstyle() == "none"  # a ring hides no dot


@pytest.mark.parametrize(("number", "run", "state", "first"), [("10", 1, "h", 0), ("11", 3, "h", 0), ("9", 1, "s", 6)])
def test_fits_of_the_order(
    figures: dict[str, Figure], runs: list[Path], number: str, run: int, state: str, first: int
) -> None:
    mean, errors, filtered, neurons, histogram, against = [
        panels(figures[number])["abcdefghijkl"[first + k]] for k in range(6)
    ]
    suffix = "" if state == "h" else f"_{state}"
    rates, orders = (loaded(runs[run], part) for part in ("responses", "fractional"))
    np.testing.assert_allclose(mean.lines[-1].get_ydata(), rates[f"{state}_isolated"][-1].mean(1))
    curve = orders[f"errors_of_mean{suffix}"][1, -1]
    np.testing.assert_array_equal(errors.lines[-2].get_ydata(), curve)
    assert errors.lines[-1].get_ydata()[0] == curve.min()
    assert errors.get_yscale() == neurons.get_yscale() == "log"
    window = slice(*orders["window"])
    np.testing.assert_array_equal(filtered.lines[-2].get_ydata(), orders[f"restored{suffix}"][1, -1, window])
    assert filtered.lines[-1].get_ydata().max() == XI[-1]
    assert len(neurons.lines) == orders["order"].shape[-1] + 1
    heights = [patch.get_height() for patch in histogram.patches]
    np.testing.assert_array_equal(heights, np.histogram(orders[f"order{suffix}"][1, -1], np.linspace(-1, 1, 9))[0])
    np.testing.assert_array_equal(against.lines[0].get_ydata(), orders[f"order_of_mean{suffix}"][1])


def test_gradients_against_the_length(figures: dict[str, Figure], runs: list[Path]) -> None:
    whole, each = (panels(figures["18"])[name] for name in "ab")
    for panel, name in ((whole, "accumulated"), (each, "each")):
        values = np.array([loaded(runs[i], "gradients")[f"{name}_after"] for i in (1, 3)])
        values = np.where(values > 0, values, np.nan)  # the state before the first step is 0
        mean = np.exp(np.log(values).mean(0))
        curve = next(line for line in panel.lines if line.get_color() == MODELS["arun"][1])
        np.testing.assert_allclose(curve.get_ydata(), mean)
        expected = np.arange(len(mean)) if panel is each else len(mean) - np.arange(len(mean))
        np.testing.assert_array_equal(curve.get_xdata(), expected)
        assert panel.get_yscale() == "log"
        factor = np.exp(np.log(values).std(0, ddof=1))
        chosen = lines(panel, "ARUN")[0].get_xdata()
        at = [int(np.flatnonzero(expected == x)[0]) for x in chosen]
        np.testing.assert_allclose(bars(panel, "ARUN"), [(mean / factor)[at], (mean * factor)[at]])


@pytest.mark.parametrize(
    ("number", "name"), [("4", "gamma-heterogeneous"), ("5", "gamma-heterogeneous"), ("18", "relu")]
)
def test_figure_of_one_static_network(
    analysed: dict[str, Path], styled: None, figures: dict[str, Figure], number: str, name: str
) -> None:
    """It has all panels; those of an ARUN say that it was not measured."""
    figure = drawn(number, [analysed[name]])
    assert list(panels(figure)) == list(panels(figures[number]))
    empty = [axes for axes in figure.axes if any(text.get_text() == "not measured" for text in axes.texts)]
    assert len(empty) == {"4": 2, "5": 3, "18": 0}[number]


def test_refusals(analysed: dict[str, Path], trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="number: got '7', expected one of 1, 2, 3, 4, 5, 6, 9, 10, 11, 18, states, "):
        draw("7", [], tmp_path)
    with pytest.raises(ConfigError, match="runs: got no runs, expected at least one run of arun for figure 10"):
        draw("10", [], tmp_path)
    with pytest.raises(ConfigError, match="runs: got lstm, relu, expected at least one run of arun for figure 9"):
        draw("9", [analysed["relu"], analysed["lstm"]], tmp_path)
    with pytest.raises(ConfigError, match="figure 11: got no second run of arun with this analysis"):
        draw("11", [analysed["arun"]], tmp_path)
    with pytest.raises(RunError, match=r"relu0: its sensitivity is not measured yet; measure it with `aru robustness"):
        draw("2", [trained["relu"]], tmp_path)
    with pytest.raises(ConfigError, match=r"figure 18: got no run .*; make it with `aru analyse RUN gradients`"):
        draw("18", [trained["relu"]], tmp_path)
    with pytest.raises(RunError, match="holds no run"):
        draw("2", [tmp_path], tmp_path)
    assert not list(tmp_path.iterdir())


def test_damaged_analysis_is_named(arun: Path, tmp_path: Path) -> None:
    (arun / "analysis" / "gradients.npz").write_bytes(b"x")
    with pytest.raises(RunError, match=r"gradients\.npz"):
        draw("18", [arun], tmp_path / "figures")


def test_tasks_are_not_mixed(arun: Path, analysed: dict[str, Path], tmp_path: Path) -> None:
    config = (arun / "config.json").read_text().replace('"task": "sdigits"', '"task": "psdigits"')
    (arun / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="runs: got runs of psdigits and sdigits, expected one task in a figure"):
        draw("2", [arun, analysed["arun1"]], tmp_path)


def test_different_amplitudes_are_not_averaged(arun: Path, analysed: dict[str, Path], tmp_path: Path) -> None:
    other = dataclasses.replace(SETTINGS, amplitudes=(0.0, 1.0, 2.0, 3.0, 4.0))
    analyse(arun, ["gain-scaling"], other, console=quiet())
    with pytest.raises(ConfigError, match="runs: got analyses with different amplitudes, expected the same"):
        draw("3", [arun, analysed["arun1"]], tmp_path)


def test_different_strengths_are_not_averaged(arun: Path, analysed: dict[str, Path], tmp_path: Path) -> None:
    known_scores(arun, [StepDrive(5.0)], 50)
    with pytest.raises(ConfigError, match=r"runs: got sensitivities to other strengths .*\(step sweep\)"):
        draw("2", [arun, analysed["arun1"]], tmp_path)


def test_command(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["figure", "2", *map(str, runs)]) == 0
    assert capsys.readouterr().out.split() == ["figures/figure-2.png", "figures/figure-2.pdf"]
    assert main(["figure", "1", "--output", "there"]) == 0
    assert (tmp_path / "there" / "figure-1.png").exists()
    capsys.readouterr()
    assert main(["figure", "8"]) == 2
    assert "aru: number: got '8'" in capsys.readouterr().err
    assert main(["figure", "3"]) == 2
    assert "runs: got no runs" in capsys.readouterr().err


def test_runs_that_a_figure_does_not_show_are_named(runs: list[Path], tmp_path: Path) -> None:
    table, told = tmp_path / "sweep.csv", []
    table.write_text("run,model\n")
    (arun, *_) = [run for run in runs if run.name.startswith("arun")]
    (relu, *_) = [run for run in runs if run.name.startswith("relu")]
    draw("10", [table, arun, relu], tmp_path / "figures", told.append)
    assert told == [
        f"{table} is a file and not the folder of a run; it is passed over.",
        f"Figure 10 shows arun, and not {relu}, a run of relu.",
    ]
    with pytest.raises(ConfigError, match="runs: got no runs, expected at least one run of arun for figure 10"):
        draw("10", [table], tmp_path / "figures")
