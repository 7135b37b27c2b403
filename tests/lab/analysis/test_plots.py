"""`aru figure`: pictures from the files alone, with the files' numbers in them."""

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

from aru_lab.cli import main
from aru_lab.errors import ConfigError, RunError
from aru_lab.experiments.analyse import analyse
from aru_lab.networks.perturbations import StepDrive
from aru_lab.plots.paper import FIGURES as ALL
from aru_lab.plots.paper.analysed import Analysed
from aru_lab.plots.paper.controller import STILL
from aru_lab.plots.paper.draw import DRAWINGS, draw
from aru_lab.plots.style import DARK, DPI, GREY, MODELS, PURPLE, WIDTH, style
from aru_lab.runs.analyses import AnalysisFolder
from aru_lab.runs.scores import known_scores
from aru_lab.runs.sensitivity import axes_of

from .conftest import SETTINGS, STRENGTHS, quiet

# those of the analyses that need no request and no trials
FIGURES = tuple(name for name in ALL if name not in ("psychometric", "trajectories", "fixed-points"))
XI = np.array(SETTINGS.amplitudes)
WHERE = ("network", "isolated")


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
    return drawing([run for run in found if run.model in models])


def lines(axes: Any, label: str) -> list[Any]:
    """Curves of this name, or of the error bars of this name."""
    containers = [c.lines[0] for c in axes.containers if c.get_label() == label and hasattr(c, "lines")]
    return [line for line in axes.lines if line.get_label() == label] + containers


def test_command_and_drawings_agree_on_the_names() -> None:
    assert tuple(DRAWINGS) == ALL


@pytest.fixture(scope="module")
def pictures(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Every figure, drawn from run folders that have lost their checkpoints."""
    folder = tmp_path_factory.mktemp("pictures")
    copies = [Path(shutil.copytree(run, folder / run.name, ignore=shutil.ignore_patterns("*.pt"))) for run in runs]
    return {number: draw(number, copies, folder / "figures" / number) for number in FIGURES}


@pytest.mark.parametrize("number", FIGURES)
def test_figure_is_a_picture_one_column_wide(pictures: dict[str, list[Path]], number: str) -> None:
    png, pdf = pictures[number]
    assert (png.name, pdf.name) == (f"figure-{number}.png", f"figure-{number}.pdf")
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", content[16:24])
    assert width == round(WIDTH * DPI)
    assert 0.3 * width < height < 1.5 * width
    assert len(content) > 20_000
    assert pdf.read_bytes().startswith(b"%PDF")
    assert sorted(png.parent.iterdir()) == sorted((png, pdf))


@pytest.mark.parametrize("number", ["2", "4"])
def test_same_files_give_the_same_bytes(
    pictures: dict[str, list[Path]], runs: list[Path], tmp_path: Path, number: str
) -> None:
    assert [path.read_bytes() for path in draw(number, runs, tmp_path)] == [
        path.read_bytes() for path in pictures[number]
    ]


@pytest.mark.parametrize("number", FIGURES)
def test_letters_are_readable_and_panels_named(runs: list[Path], styled: None, number: str) -> None:
    figure = drawn(number, runs)
    figure.set_layout_engine("none")
    figure.draw_without_rendering()
    sizes = [text.get_fontsize() for text in figure.findobj(lambda x: hasattr(x, "get_fontsize")) if text.get_text()]
    assert min(sizes) >= 7
    letters = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert letters == sorted(letters)
    assert letters[0] == "a"


def test_activations_are_those_of_gamma(styled: None) -> None:
    left, right = drawn("1", []).axes
    x = np.linspace(-2, 2, 401)
    np.testing.assert_allclose(lines(left, "n = 2")[0].get_ydata(), np.log1p(np.exp(2 * x)) / 2, atol=1e-12)
    np.testing.assert_allclose(lines(right, "s = 1")[0].get_ydata(), 1 / (1 + np.exp(-5 * x)), atol=1e-12)


SWEEPS = (0, 1, 2, 9, 10)  # sketches in the axes of figure 2; accuracy and loss are 3 and 6 axes later


def bars(axes: Any, label: str) -> np.ndarray:
    """Lower and upper ends of the error bars of this name: (2, points)."""
    (container,) = [c for c in axes.containers if c.get_label() == label]
    return np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()]).T


def test_robustness_shows_means_over_seeds(runs: list[Path], styled: None) -> None:
    panels = drawn("2", runs).axes
    for sketch, axis in zip(SWEEPS, axes_of(STRENGTHS, 64), strict=True):
        accuracy, loss = panels[sketch + 3], panels[sketch + 6]
        scores = [known_scores(runs[i], list(axis.perturbations.values()), 50) for i in (1, 3)]
        for panel, values in (
            (accuracy, 100 * np.array([[score.accuracy for score in of_run] for of_run in scores])),
            (loss, np.array([[score.loss for score in of_run] for of_run in scores])),
        ):
            (line,) = lines(panel, "ARUN")
            np.testing.assert_allclose(line.get_xdata(), list(axis.perturbations))
            np.testing.assert_allclose(line.get_ydata(), values.mean(0))
            spread = values.std(0, ddof=1)
            np.testing.assert_allclose(bars(panel, "ARUN"), values.mean(0) + np.outer([-1, 1], spread), atol=1e-12)
            for label in ("RNN+ReLU", "LSTM", "RNN+γ het."):
                assert len(lines(panel, label)) == 1
            left, right = panel.get_xlim()
            assert left < min(axis.perturbations) < max(axis.perturbations) < right
        head, _, tail = axis.label.rpartition(": ")
        assert panels[sketch].get_title(loc="right").splitlines()[0] == head
        assert loss.get_xlabel() == tail
        assert (accuracy.get_yscale(), loss.get_yscale()) == ("linear", "log")
    assert max(np.ptp(line.get_ydata()) for line in panels[3].lines) > 1


def test_sketches_are_the_stimuli(runs: list[Path], styled: None) -> None:
    panels = drawn("2", runs).axes
    for sketch, axis in zip(SWEEPS, axes_of(STRENGTHS, 64), strict=True):
        strongest = list(axis.perturbations.values())[-1]
        drive = strongest.drive(64, 1, [0])
        course = strongest.contrast(64, [0]) if drive is None else drive
        np.testing.assert_allclose(panels[sketch].lines[0].get_ydata(), course.reshape(64))


def test_no_curve_hides_another(runs: list[Path], styled: None) -> None:
    """Curves with equal values lie beside each other, and there are no bands that could cover one."""
    for number in ("2", "3", "6"):
        for panel in drawn(number, runs).axes:
            assert not [
                c for c in panel.collections if type(c).__name__ in ("PolyCollection", "FillBetweenPolyCollection")
            ]
            curves = [c.lines[0] for c in panel.containers if hasattr(c, "lines")]
            places = [line.get_transform().transform((0.0, 1.0))[0] for line in curves]
            assert len({round(x, 6) for x in places}) == len(curves)


def test_fractional_orders_in_the_figure(runs: list[Path], styled: None) -> None:
    against = drawn("3", runs).axes[4]
    saved = AnalysisFolder(runs[4]).load("fractional")
    for c, name in enumerate(("network", "isolated")):
        (line,) = lines(against, f"RNN+γ het., {name}")
        np.testing.assert_array_equal(line.get_xdata(), XI[1:])
        np.testing.assert_allclose(line.get_ydata(), saved["order_of_mean"][c])


def test_gain_scaling_in_the_figure(runs: list[Path], styled: None) -> None:
    gain = drawn("4", runs).axes[0]
    saved = AnalysisFolder(runs[1]).load("gain-scaling")
    np.testing.assert_allclose(gain.containers[0].lines[0].get_ydata(), saved["n"].mean(1))
    assert len(gain.containers) == 2


def test_seeds_that_rise_and_fall_are_told_apart(runs: list[Path], styled: None) -> None:
    panels = drawn("4", runs).axes[:2]
    for panel, name in zip(panels, "ns", strict=True):
        courses = [AnalysisFolder(runs[i]).load("gain-scaling")[name].mean(1) for i in (1, 3)]
        rises = [course[-1] > course[list(XI).index(1.0)] for course in courses]
        assert [c.lines[0].get_marker() for c in panel.containers] == ["^" if up else "v" for up in rises]
        assert f"{name} rises in {sum(rises)}, falls in {2 - sum(rises)} of 2 seeds" in panel.get_title(loc="right")


def test_mean_responses_by_the_sign_of_the_order(runs: list[Path], styled: None) -> None:
    panels = drawn("3", runs).axes[2:4]
    rates, orders = (AnalysisFolder(runs[1]).load(part) for part in ("responses", "fractional"))
    for c, (panel, where) in enumerate(zip(panels, WHERE, strict=True)):
        above = orders["order"][c, -1] > 0
        for chosen, sign in ((above, "> 0"), (~above, "≤ 0")):
            found = lines(panel, f"α {sign}: {chosen.sum()} neurons")
            assert len(found) == chosen.any()
            for line in found:
                np.testing.assert_allclose(line.get_ydata(), rates[f"h_{where}"][-1][:, chosen].mean(1))


def test_a_colour_means_one_thing(runs: list[Path], styled: None) -> None:
    """In figures 3 and 6, a model's colour is on curves of this model only."""
    names = {colour: name for name, colour, _ in MODELS.values()}
    against, exponents = drawn("3", runs).axes[4], drawn("6", runs).axes[2]
    for container in (*against.containers, *exponents.containers):
        owner = names.get(container.lines[0].get_color())
        assert owner is None or container.get_label().startswith(owner)
    distribution, error = (drawn("3", runs).axes[k] for k in (1, 5))
    assert {line.get_color() for line in error.lines} == {MODELS["arun"][1]}
    assert len({patch.get_linestyle() for patch in distribution.patches if patch.get_label() in WHERE}) == 2
    for colour in (DARK, PURPLE, GREY):
        assert colour not in names
    at_rest = lines(exponents, "ARUN, n and s at rest")[0]
    assert at_rest.get_color() not in names


@pytest.mark.parametrize("number", ["5", "6"])
def test_legends_cover_no_panel(runs: list[Path], styled: None, number: str) -> None:
    figure = drawn(number, runs)
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.get_title(loc="left")]
    legends = [axes.get_legend() for axes in panels if axes.get_legend()] + figure.legends
    assert legends
    for legend in legends:
        assert not [axes for axes in panels if axes.get_window_extent().padded(-2).overlaps(legend.get_window_extent())]


def test_boundaries_in_the_legend_are_those_in_the_axes(runs: list[Path], styled: None) -> None:
    visited = drawn("6", runs).axes[1]
    low, high = visited.get_ylim()
    drawn_boundaries = [line for line in visited.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
    for line in drawn_boundaries:
        assert ((line.get_ydata() >= low) & (line.get_ydata() <= high)).any()
    said = [text.get_text() for text in visited.get_legend().get_texts() if "boundary" in text.get_text()]
    assert bool(said) == bool(drawn_boundaries)


def test_exponents_against_time_in_the_figure(runs: list[Path], styled: None) -> None:
    course = drawn("6", runs).axes[3]
    saved = AnalysisFolder(runs[1]).load("lyapunov")
    for i, xi in enumerate(XI):
        (line,) = lines(course, f"ξ = {xi:g}")
        np.testing.assert_array_equal(line.get_xdata(), saved["times"])
        np.testing.assert_allclose(line.get_ydata(), saved["course"][i].mean(-1))


def test_controller_in_the_figure(runs: list[Path], styled: None) -> None:
    gains = drawn("5", runs).axes[2]
    saved = AnalysisFolder(runs[1]).load("controller")
    onset, mean, settled, moving = gains.lines
    np.testing.assert_allclose(onset.get_ydata(), saved["onset_shape"][:, 0])
    np.testing.assert_allclose(mean.get_ydata(), saved["steady_shape"][:, 0])
    moves = saved["speed"].max(1) > STILL
    np.testing.assert_array_equal(settled.get_xdata(), saved["inputs"][~moves])
    np.testing.assert_array_equal(moving.get_xdata(), saved["inputs"][moves])
    assert moving.get_markerfacecolor() == "white"


def test_exponents_in_the_figure(runs: list[Path], styled: None) -> None:
    exponents = drawn("6", runs).axes[2]
    static = AnalysisFolder(runs[4]).load("lyapunov")
    np.testing.assert_allclose(lines(exponents, "RNN+γ het.")[0].get_ydata(), static["exponents"][0, :, 0])
    adaptive = [AnalysisFolder(runs[i]).load("lyapunov")["exponents"] for i in (1, 3)]
    for i, label in enumerate(("ARUN, n and s as driven", "ARUN, n and s at rest")):
        np.testing.assert_allclose(lines(exponents, label)[0].get_ydata(), np.mean([x[i, :, 0] for x in adaptive], 0))


def test_appendix_shows_spectra_of_every_model(runs: list[Path], styled: None) -> None:
    panels = drawn("appendix", runs).axes[2:5]
    for panel, run in zip(panels, (runs[1], runs[4], runs[0]), strict=True):
        saved = AnalysisFolder(run).load("spectrum")
        _, after, before = panel.lines
        np.testing.assert_array_equal(after.get_xdata() + 1j * after.get_ydata(), saved["after"])
        np.testing.assert_array_equal(before.get_xdata() + 1j * before.get_ydata(), saved["before"])
        assert after.get_fillstyle() == "none"  # a ring hides no dot


@pytest.mark.parametrize(
    ("number", "name", "panels"),
    [("3", "gamma-heterogeneous", 6), ("6", "gamma-heterogeneous", 4), ("appendix", "relu", 3)],
)
def test_figure_of_one_static_network(
    analysed: dict[str, Path], styled: None, number: str, name: str, panels: int
) -> None:
    figure = drawn(number, [analysed[name]])
    assert sum(bool(axes.get_title(loc="left")) for axes in figure.axes) == panels


def test_refusals(analysed: dict[str, Path], trained: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="number: got '7', expected one of 1, 2, 3, 4, 5, 6, appendix"):
        draw("7", [], tmp_path)
    with pytest.raises(ConfigError, match="runs: got no runs, expected at least one run of arun for figure 5"):
        draw("5", [], tmp_path)
    with pytest.raises(ConfigError, match="runs: got lstm, relu, expected at least one run of arun for figure 4"):
        draw("4", [analysed["relu"], analysed["lstm"]], tmp_path)
    with pytest.raises(RunError, match=r"relu0: its sensitivity is not measured yet; measure it with `aru robustness"):
        draw("2", [trained["relu"]], tmp_path)
    with pytest.raises(RunError, match=r"gradients\.npz is missing; make it with `aru analyse"):
        draw("appendix", [trained["relu"]], tmp_path)
    with pytest.raises(RunError, match="holds no run"):
        draw("2", [tmp_path], tmp_path)
    assert not list(tmp_path.iterdir())


def test_tasks_are_not_mixed(arun: Path, analysed: dict[str, Path], tmp_path: Path) -> None:
    config = (arun / "config.json").read_text().replace('"task": "sdigits"', '"task": "psdigits"')
    (arun / "config.json").write_text(config)
    with pytest.raises(ConfigError, match="runs: got runs of psdigits and sdigits, expected one task in a figure"):
        draw("2", [arun, analysed["arun1"]], tmp_path)


def test_different_amplitudes_are_not_averaged(arun: Path, analysed: dict[str, Path], tmp_path: Path) -> None:
    other = dataclasses.replace(SETTINGS, amplitudes=(0.0, 1.0, 2.0, 3.0, 4.0))
    analyse(arun, ["gain-scaling"], other, console=quiet())
    with pytest.raises(ConfigError, match="runs: got analyses with different amplitudes, expected the same"):
        draw("4", [arun, analysed["arun1"]], tmp_path)


def test_different_strengths_are_not_averaged(arun: Path, analysed: dict[str, Path], tmp_path: Path) -> None:
    known_scores(arun, [StepDrive(5.0)], 50)
    with pytest.raises(ConfigError, match=r"runs: got sensitivities to other strengths .*\(step-amplitude\)"):
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
    assert main(["figure", "9"]) == 2
    assert "aru: number: got '9'" in capsys.readouterr().err
    assert main(["figure", "3"]) == 2
    assert "runs: got no runs" in capsys.readouterr().err


def test_runs_that_a_figure_does_not_show_are_named(runs: list[Path], tmp_path: Path) -> None:
    table, told = tmp_path / "sweep.csv", []
    table.write_text("run,model\n")
    (arun, *_) = [run for run in runs if run.name.startswith("arun")]
    (relu, *_) = [run for run in runs if run.name.startswith("relu")]
    draw("4", [table, arun, relu], tmp_path / "figures", told.append)
    assert told == [
        f"{table} is a file and not the folder of a run; it is passed over.",
        f"Figure 4 shows arun, and not {relu}, a run of relu.",
    ]
    with pytest.raises(ConfigError, match="runs: got no runs, expected at least one run of arun for figure 4"):
        draw("4", [table], tmp_path / "figures")
