"""`aru analyse`: files that hold what the library finds, resumed and recomputed as they must be."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from aru_lab.analysis import responses
from aru_lab.analysis.checks import AnalysisError
from aru_lab.analysis.controller import one_dimensional, principal_components, trajectories
from aru_lab.analysis.fits import CURVES, fit
from aru_lab.analysis.fractional import derivative, fractional_order, orders_of, sharpness
from aru_lab.analysis.gain_scaling import steady_state
from aru_lab.analysis.gradients import GradientNorms, gradient_norms
from aru_lab.analysis.heterogeneity import compare, neuron_shapes
from aru_lab.analysis.lyapunov import network_exponents
from aru_lab.analysis.network import held
from aru_lab.analysis.protocols import STEP_PROTOCOLS
from aru_lab.analysis.random_networks import norm_grid
from aru_lab.analysis.reading import driven_steps, read_driven
from aru_lab.analysis.responses import noise_responses, step_responses
from aru_lab.analysis.settings import Settings
from aru_lab.analysis.stability import MARGIN, slope_at, spectrum, stability_boundary
from aru_lab.cli import main
from aru_lab.data.sequences import Sequences, TaskData
from aru_lab.errors import ConfigError, RunError
from aru_lab.experiments import analyse as analyse_module
from aru_lab.experiments.analyse import PARTS, analyse
from aru_lab.networks.classifier import CONTROLLER, build_classifier
from aru_lab.networks.perturbations import rescale
from aru_lab.runs import analyses
from aru_lab.runs.analyses import AnalysisFolder, Run

from ..conftest import ROOT
from .conftest import OPTIONS, SETTINGS, quiet, train_tiny

XI = np.array(SETTINGS.amplitudes)
ENDS = {"n", "s", "held", "before", "after"}  # what the names of arrays in the documentation are continued by
# not on request, and not on trials that are drawn
USUAL = {name for name, part in PARTS.items() if not part.on_request and part.suits != "trials"}
FOR_STATIC = USUAL - {"gain-scaling", "controller"}


def times(run: Path) -> dict[str, int]:
    return {path.stem: os.stat(path).st_mtime_ns for path in (run / "analysis").glob("*.npz")}


def table(run: Path, name: str) -> list[dict[str, str]]:
    with (run / "analysis" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("arun", USUAL),
        ("gamma-heterogeneous", FOR_STATIC),
        ("relu", {"lyapunov", "spectrum", "gradients"}),
    ],
)
def test_without_names_all_that_suit_are_computed(analysed: dict[str, Path], name: str, expected: set[str]) -> None:
    assert set(times(analysed[name])) == expected
    assert not list(analysed[name].glob("analysis/*.partial"))


def test_documentation_lists_every_stored_array(analysed: dict[str, Path]) -> None:
    page = (ROOT / "docs" / "analysis.md").read_text(encoding="utf-8")
    rows = page.split("## What the files hold")[1].split("\n## ")[0].splitlines()
    listed = {row.split("`")[1]: set(re.findall(r"`(\w+)`", row.split("|")[2])) for row in rows if row[:3] == "| `"}
    assert listed.keys() == PARTS.keys()
    for run in (analysed["arun"], analysed["gamma-heterogeneous"]):
        for part in times(run):
            for name in AnalysisFolder(run).load(part):
                stem, _, end = name.rpartition("_")  # as in h_network; order_n, mean_h_held, each_after
                named = name in listed[part] or f"{stem}_" in listed[part] or (stem in listed[part] and end in ENDS)
                assert named or name == "fit_curves", f"{part}: {name}"


def test_responses_and_orders_are_those_of_the_library(analysed: dict[str, Path]) -> None:
    run = Run(analysed["arun"])
    weight = run.network.weight_ih_l0[:, 0]
    saved, orders = run.files.load("responses"), run.files.load("fractional")
    options = {"baseline": 25, "window": (80, 220)}
    for c, (name, isolate) in enumerate((("network", False), ("isolated", True))):
        found = step_responses(run.network, XI, 2, background_weight=weight, isolate=isolate)
        for suffix, kind in (("", "h"), ("_n", "n"), ("_s", "s")):
            values = getattr(found, kind).mean(1)
            np.testing.assert_array_equal(saved[f"{kind}_{name}"], values)
            response = values[4].astype(float)
            expected = fractional_order(response.T, found.drives[4], **options)
            np.testing.assert_allclose(orders[f"order{suffix}"][c, 3], expected.order, atol=1e-9)
            sharp = sharpness(response.T, found.drives[4], expected, **options)
            np.testing.assert_allclose(orders[f"sharpness{suffix}"][c, 3], sharp)
            mean = fractional_order(response.mean(1), found.drives[4], **options)
            assert orders[f"order_of_mean{suffix}"][c, 3] == pytest.approx(mean.order, abs=1e-9)
            restored = derivative(response.mean(1), mean.order)
            np.testing.assert_allclose(orders[f"restored{suffix}"][c, 3], restored - restored[25], atol=1e-9)
            error = np.mean((restored - restored[25] - found.drives[4])[80:220] ** 2)
            assert orders[f"error_of_mean{suffix}"][c, 3] == pytest.approx(error, rel=1e-6)
            correlation = np.corrcoef(restored[80:220], found.drives[4][80:220])[0, 1]
            assert orders[f"restored_r_squared{suffix}"][c, 3] == pytest.approx(correlation**2, rel=1e-6)
            determination = 1 - error / found.drives[4][80:220].var()
            assert orders[f"restored_determination{suffix}"][c, 3] == pytest.approx(determination, rel=1e-6)
    np.testing.assert_allclose(orders["fraction_above_0"], (orders["order"] > 0).mean(2))
    row = table(run.path, "fractional")[-1]
    assert (row["connectivity"], float(row["amplitude"])) == ("isolated", 4.0)
    assert float(row["mean_order"]) == pytest.approx(orders["order"][1, 3].mean(), rel=1e-8, abs=1e-9)


@pytest.mark.parametrize("name", ["figure-4", "figures-10-12"])
def test_protocols_of_the_authors_code(arun: Path, name: str) -> None:
    protocol = STEP_PROTOCOLS[name]
    settings = dataclasses.replace(SETTINGS, fractional=name)
    assert analyse(arun, ["fractional"], settings, console=quiet()) == ["responses", "fractional"]
    run = Run(arun)
    saved, orders = run.files.load("responses"), run.files.load("fractional")
    assert (saved["h_network"].shape[1], int(saved["onset"])) == (protocol.n_steps, protocol.onset)
    np.testing.assert_array_equal(orders["orders"], protocol.orders_of_mean)
    assert np.isin(orders["order"], protocol.orders_of_neurons).all()
    assert np.isin(orders["order_of_mean"], protocol.orders_of_mean).all()


@pytest.mark.parametrize("encoder", [False, True])
def test_background_enters_through_the_input_weights(encoder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = {}

    def recorded(network: object, amplitudes: object, *arguments: object, **options: object) -> object:
        drawn["background"], drawn["weight"] = arguments[4:6], arguments[7]
        return step_responses(network, amplitudes, *arguments, **options)

    monkeypatch.setattr(responses, "step_responses", recorded)
    model = build_classifier("arun", 5, 3, 3, encoder="conv") if encoder else build_classifier("arun", 5, 3, 4)
    run = SimpleNamespace(model=model, network=model.recurrent)
    found = responses.analyse_responses(run, SETTINGS, lambda done, total: None)
    orders = orders_of(found.arrays, SETTINGS, adaptive=True)
    assert orders.arrays["order_n"].shape == (2, 4, 5)
    if encoder:
        assert (drawn["background"], drawn["weight"]) == ((0.05, 0.4), 1.0)
    else:
        assert drawn["background"] == (0.8, 0.1)
        torch.testing.assert_close(drawn["weight"], model.recurrent.weight_ih_l0.sum(1))


def test_gain_scaling_and_controller_are_those_of_the_library(analysed: dict[str, Path]) -> None:
    run = Run(analysed["arun"])
    state = steady_state(noise_responses(run.network, XI, 2))
    saved = run.files.load("gain-scaling")
    np.testing.assert_array_equal(saved["n"], state.n)
    np.testing.assert_array_equal(saved["window"], [310, 400])
    assert [float(row["s"]) for row in table(run.path, "gain-scaling")] == pytest.approx(state.s.mean(1), rel=1e-8)
    assert [row["curve"] for row in table(run.path, "gain-scaling-fits")] == [*CURVES, *CURVES]
    quiet_n = noise_responses(run.network, XI, 2).n[:, :, 110:200].astype(np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(saved["rest"][0], quiet_n, rtol=1e-12)
    fixed = steady_state(noise_responses(held(run.network, *saved["rest"]), XI, 2))
    np.testing.assert_allclose(saved["deviation_h_held"], fixed.deviation_h, rtol=1e-12)
    np.testing.assert_allclose(saved["effective_gain"][4], state.deviation_h[4] / 4, rtol=1e-12)
    # Of these amplitudes three are at least 1, and a fit needs four.
    np.testing.assert_array_equal(saved["fit_amplitudes"], [1, 2, 4])
    assert np.isnan(saved["fit_parameters"]).all()

    saved = run.files.load("controller")
    np.testing.assert_allclose(saved["inputs"], np.exp(np.linspace(-2, 2, 10)))
    paths = trajectories(run.network, repeats=2)
    np.testing.assert_array_equal(saved["steady_shape"], paths.steady_shape)
    components = principal_components(paths, 3)
    np.testing.assert_allclose(saved["scores"], components.scores[:, 200:], rtol=1e-5, atol=1e-6)
    curve = one_dimensional(paths.g[:, :, -1].mean(1), axis=components.axes[0])
    assert (saved["curve_explained"], saved["line_explained"]) == (curve.explained, curve.line)
    assert [float(row["n_onset"]) for row in table(run.path, "controller")] == pytest.approx(paths.onset_shape[:, 0])


def test_gain_scaling_fits_the_amplitudes_of_at_least_one(arun: Path) -> None:
    xi = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 24.0)
    settings = dataclasses.replace(SETTINGS, amplitudes=xi)
    assert analyse(arun, ["gain-scaling"], settings, console=quiet()) == ["gain-scaling"]
    saved = AnalysisFolder(arun).load("gain-scaling")
    assert saved["fit_curves"].tolist() == list(CURVES)
    for i, name in enumerate("ns"):
        found = fit("line", xi[2:], saved[name][2:].mean(1))
        np.testing.assert_allclose(saved["fit_parameters"][i, 2], [found.parameters, found.low, found.high])
    np.testing.assert_array_equal(saved["parameters"], saved["fit_parameters"][[0, 1], [0, 1]])
    np.testing.assert_array_equal(saved["r_squared"], saved["fit_r_squared"][[0, 1], [0, 1]])
    isolated = dataclasses.replace(settings, noise_into="isolated")
    assert analyse(arun, ["gain-scaling"], isolated, console=quiet()) == ["gain-scaling"]
    assert (AnalysisFolder(arun).load("gain-scaling")["n"] != saved["n"]).any()


def test_controller_under_the_amplitudes(arun: Path) -> None:
    settings = dataclasses.replace(SETTINGS, inputs="amplitudes", carried=True)
    assert analyse(arun, ["controller"], settings, console=quiet()) == ["controller"]
    saved = AnalysisFolder(arun).load("controller")
    np.testing.assert_array_equal(saved["inputs"], [0.5, 1, 2, 4])
    assert np.isnan(saved["curve_explained"])  # a cubic needs a fifth point
    paths = trajectories(Run(arun).network, [0.5, 1, 2, 4], repeats=2, carried=True)
    np.testing.assert_array_equal(saved["final_states"], paths.steady_state.mean(1))


def test_stability_is_that_of_the_library(analysed: dict[str, Path]) -> None:
    run = Run(analysed["arun"])
    saved, steps = run.files.load("stability"), run.files.load("adaptation")
    norms = norm_grid(6, [1, 10.5, 20], [0, 1])
    np.testing.assert_allclose(saved["norm"], norms.norm, rtol=1e-12)
    np.testing.assert_array_equal(saved["sigma"], 1)
    np.testing.assert_array_equal(saved["paper_drives"], [0.9, 1.1, 1.5, 2, 3, 5, 30])
    np.testing.assert_allclose(slope_at(2.0, saved["paper_gains"], saved["paper_boundary"][3, 0]), 0.987)
    for name in ("onset_shape", "steady_shape"):
        np.testing.assert_array_equal(saved[name], steps[name])
    for i, row in enumerate(table(run.path, "stability")):
        low, high = stability_boundary(XI[i], saved["boundary_gains"], margin=MARGIN)
        np.testing.assert_allclose(saved["boundary"][i], [low, high])
        slope = slope_at(XI[i], *saved["steady_shape"][i])
        assert saved["distance"][i] == pytest.approx(abs(slope + 0.013 - 1), abs=1e-12)
        assert saved["slope_onset"][i] == pytest.approx(slope_at(XI[i], *steps["onset_shape"][i]))
        assert bool(int(row["stable"])) == saved["stable"][i] == (abs(slope) < 0.987)


def test_measured_deviation_of_the_noise(arun: Path) -> None:
    settings = dataclasses.replace(SETTINGS, sigma="measured")
    assert analyse(arun, ["stability"], settings, console=quiet()) == ["stability"]
    files = AnalysisFolder(arun)
    saved, measured = files.load("stability"), files.load("adaptation")["a_deviation"]
    np.testing.assert_array_equal(saved["sigma"], measured)
    np.testing.assert_allclose(saved["distance"], np.abs(saved["slope_steady"] * measured + 0.013 - 1))
    low, _ = stability_boundary(4.0, saved["boundary_gains"], measured[4], MARGIN)
    np.testing.assert_allclose(saved["boundary"][4, 0], low)


@pytest.mark.parametrize("name", ["arun", "gamma-heterogeneous", "relu"])
def test_exponents_are_those_of_the_library(analysed: dict[str, Path], name: str) -> None:
    run = Run(analysed[name])
    saved = run.files.load("lyapunov")
    kinds = ["adaptive", "fixed"] if name == "arun" else ["static"]
    assert saved["kinds"].tolist() == kinds
    assert saved["conditions"].tolist() == ["none", "bias", "drive"]
    assert saved["times"].tolist() == [rescale(t, 64) for t in (0, 50, 100, 150)]
    x, _ = run.sequences(3)
    states = []  # by amplitude
    for xi in XI:
        parts = zip(*read_driven(run.network, x, xi), strict=True)
        states.append([torch.cat(part, dim=1).double().numpy() for part in parts])
    options = {"steps": 20, "transient": 4, "strict": False}

    def at(amplitude: int, time: int, rest: bool = False) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        t = driven_steps(64)[0] + saved["times"][time]
        shapes = states[0 if rest else amplitude][2:] if name == "arun" else None
        return states[amplitude][0][t], shapes and tuple(shape[t] for shape in shapes)

    for i, kind in enumerate(kinds):
        for j, (bias, driven) in enumerate(((False, False), (True, False), (True, True))):
            for a in (1, 4):
                h, shapes = at(a, 3, kind == "fixed")
                found = network_exponents(run.network, 2, XI[a] * driven, shapes, h, bias=bias, **options)
                # Every row of a batch begins with directions of its own, so a short average differs a little.
                np.testing.assert_allclose(saved["largest"][i, j, a], found.exponents[:, 0], atol=0.25)
    np.testing.assert_array_equal(saved["exponents"][:, :, 0], saved["largest"][:, 0].mean(2))
    np.testing.assert_array_equal(saved["course"][:, 3], saved["largest"][0, 0])
    h, shapes = at(4, 1)
    found = network_exponents(run.network, 2, 0.0, shapes, h, bias=False, **options)
    np.testing.assert_allclose(saved["course"][4, 1], found.exponents[:, 0], rtol=1e-6, atol=1e-9)


def test_joint_state_on_request(arun: Path) -> None:
    settings = dataclasses.replace(SETTINGS, joint=True)
    assert analyse(arun, ["lyapunov"], settings, console=quiet()) == ["lyapunov"]
    saved = AnalysisFolder(arun).load("lyapunov")
    assert saved["kinds"].tolist() == ["adaptive", "fixed", "joint"]
    assert np.isnan(saved["largest"][2, :2]).all()
    np.testing.assert_array_equal(saved["exponents"][2, :, 0], saved["largest"][2, 2].mean(1))
    assert np.isfinite(saved["exponents"]).all()


def test_weights_before_and_after_training_are_compared(analysed: dict[str, Path]) -> None:
    run = Run(analysed["gamma-heterogeneous"])
    before, after = run.initial_model, run.model
    saved = run.files.load("spectrum")
    np.testing.assert_array_equal(saved["after"], spectrum(after.recurrent))
    np.testing.assert_allclose(np.abs(saved["before"]), 1, rtol=1e-5)
    shapes = run.files.load("heterogeneity")
    np.testing.assert_array_equal(shapes["n_before"], neuron_shapes(before.recurrent).n)
    np.testing.assert_array_equal(shapes["s_after"], neuron_shapes(after.recurrent).s)
    n, s = shapes["n_after"], shapes["s_after"]
    np.testing.assert_allclose(shapes["deviation"][1], [n.std(), s.std()])
    determinant = n.var() * s.var() - np.mean((n - n.mean()) * (s - s.mean())) ** 2
    assert shapes["determinant"].shape == (2,)
    assert shapes["determinant"][1] == pytest.approx(determinant, rel=1e-6)
    change = compare(shapes["n_before"], shapes["n_after"])
    row = table(run.path, "heterogeneity-changes")[0]
    assert (row["of"], row["from"], row["to"]) == ("n", "before", "after")
    assert float(row["mean_move"]) == pytest.approx(change.moved, rel=1e-8)
    x, y = run.sequences(12, of="train")
    assert x.shape == (64, 12, 1)
    torch.testing.assert_close(x[:, :, 0], torch.from_numpy(run.data.train.x[:12, :, 0]).T)
    assert len(run.data.train) == 60  # of this run

    def norms(part: slice) -> GradientNorms:
        return gradient_norms(after.recurrent, x[:, part], lambda h: F.cross_entropy(after.readout(h[-1]), y[part]))

    saved = run.files.load("gradients")
    for name in ("accumulated", "each", "state"):
        np.testing.assert_allclose(saved[f"{name}_after"], getattr(norms(slice(12)), name), rtol=1e-4)
    halves = [norms(part).accumulated for part in (slice(6), slice(6, 12))]
    np.testing.assert_allclose(saved["accumulated_halves_after"], halves, rtol=1e-4)
    np.testing.assert_array_equal(saved["positions"], np.arange(0, 64, 2))
    assert saved["loss_after"] == pytest.approx(norms(slice(12)).loss, rel=1e-5)


def test_initial_weights_are_those_that_training_started_from(tmp_path: Path) -> None:
    run = Run(train_tiny(tmp_path, "arun", learning_rate=1e-30, schedule="constant", seed=3))
    trained = run.model.state_dict()
    before = torch.random.get_rng_state()
    for name, value in run.initial_model.state_dict().items():
        torch.testing.assert_close(value, trained[name], rtol=0, atol=1e-20, msg=name)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_run_that_began_from_others_has_their_weights_before_training(tmp_path: Path) -> None:
    donor = train_tiny(tmp_path, "arun", seed=1)
    frozen = {"learning_rate": 1e-30, "schedule": "constant"}
    guest = train_tiny(tmp_path, "arun", seed=2, controller_from=donor, **frozen)
    again = train_tiny(tmp_path, "arun", seed=4, initial_from=guest, task="psdigits", **frozen)
    before = Run(donor).model.state_dict()
    for path in (guest, again):
        run = Run(path)
        trained, initial = run.model.state_dict(), run.initial_model.state_dict()
        for name, value in initial.items():
            torch.testing.assert_close(value, trained[name], rtol=0, atol=1e-20, msg=name)
        for name in CONTROLLER:
            torch.testing.assert_close(initial[f"recurrent.{name}"], before[f"recurrent.{name}"], rtol=0, atol=1e-20)
        assert not torch.equal(initial["recurrent.weight_hh_l0"], before["recurrent.weight_hh_l0"])
    shutil.rmtree(donor)
    with pytest.raises(RunError, match=r"began with .*arun1, which can't be loaded unchanged \(.*\); restore that run"):
        analyse(guest, ["spectrum"], SETTINGS, console=quiet())


def test_grouped_pixels_are_read_as_in_training(tmp_path: Path) -> None:
    run = Run(train_tiny(tmp_path, "arun", pixels_per_step=4))
    x, y = run.sequences(3)
    assert x.shape == (16, 3, 4)
    torch.testing.assert_close(x, torch.from_numpy(run.test.x[:3]).transpose(0, 1))
    assert y.tolist() == run.test.y[:3].tolist()
    analyse(run.path, settings=SETTINGS, console=quiet())
    usual = {name for name, part in PARTS.items() if not part.on_request and part.suits != "trials"}
    assert set(times(run.path)) == usual


def test_encoder_makes_what_the_recurrent_network_reads(trained: dict[str, Path]) -> None:
    run = Run(trained["arun"])
    images = Sequences(np.random.default_rng(0).random((4, 64, 3), dtype=np.float32), np.arange(4))
    classifiers = [build_classifier("arun", 5, 3, 256, encoder="conv").eval() for _ in range(2)]
    run.__dict__ |= {"model": classifiers[0], "data": TaskData(images, images, images)}
    for model in classifiers:
        x, y = run.sequences(3, model)
        assert x.shape == (4, 3, 256)
        h, _ = model.recurrent(x)
        torch.testing.assert_close(model.readout(h[-1]), model(torch.from_numpy(images.x[:3])))
        assert y.tolist() == [0, 1, 2]
    assert not torch.equal(run.sequences(3)[0], x)


def test_file_of_sequences(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(path, x=generator.normal(size=(90, 7, 2)).astype(np.float32), y=np.arange(90) % 3)
    options = {"subset": None, "validation_subset": None}
    run = train_tiny(tmp_path, "gamma-heterogeneous", task=str(path), **options)
    analyse(run, settings=SETTINGS, console=quiet())
    assert len(AnalysisFolder(run).load("gradients")["each_after"]) == 7


def test_finished_parts_are_skipped_and_a_lost_one_is_made_again(arun: Path) -> None:
    before = times(arun)
    assert analyse(arun, settings=SETTINGS, console=quiet()) == []
    assert times(arun) == before
    (arun / "analysis" / "spectrum.npz").unlink()
    content = (arun / "analysis" / "gradients.npz").read_bytes()
    (arun / "analysis" / "gradients.npz").write_bytes(content[: len(content) // 2])
    assert analyse(arun, settings=SETTINGS, console=quiet()) == ["spectrum", "gradients"]
    assert (arun / "analysis" / "gradients.npz").read_bytes() == content
    assert analyse(arun, ["spectrum"], SETTINGS, again=True, console=quiet()) == ["spectrum"]


def test_other_settings_recompute_what_depends_on_them(arun: Path) -> None:
    longer = dataclasses.replace(SETTINGS, steps=30)
    assert analyse(arun, settings=longer, console=quiet()) == ["lyapunov"]
    seeded = dataclasses.replace(longer, seed=1)
    expected = ["responses", "fractional", "gain-scaling", "controller", "stability", "lyapunov"]
    assert analyse(arun, settings=seeded, console=quiet()) == expected


def test_other_weights_recompute_everything(arun: Path, trained: dict[str, Path]) -> None:
    for name in ("config.json", "best.pt"):
        shutil.copy(trained["arun1"] / name, arun / name)
    assert analyse(arun, ["fractional", "spectrum"], SETTINGS, console=quiet()) == [
        "responses",
        "fractional",
        "spectrum",
    ]


def test_part_brings_what_it_needs(trained: dict[str, Path], tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained["gamma-heterogeneous"], tmp_path / "run"))
    assert analyse(run, ["fractional"], SETTINGS, console=quiet()) == ["responses", "fractional"]


def test_retrained_run_is_the_third_moment(arun: Path, trained: dict[str, Path]) -> None:
    options = {"settings": SETTINGS, "console": quiet()}
    assert analyse(arun, ["heterogeneity"], retrained=trained["arun1"], **options) == ["heterogeneity"]
    saved = AnalysisFolder(arun).load("heterogeneity")
    assert saved["moments"].tolist() == ["before", "after", "retrained"]
    other = Run(trained["arun1"])
    np.testing.assert_allclose(saved["n_retrained"], neuron_shapes(other.network, other.sequences(8)[0]).n)
    assert analyse(arun, ["heterogeneity"], retrained=trained["arun1"], **options) == []
    assert analyse(arun, ["heterogeneity"], **options) == ["heterogeneity"]


def test_impossible_part_is_told_after_the_others_are_done(arun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(*_: object) -> None:
        raise AnalysisError("The Jacobian is singular.")

    broken = dataclasses.replace(PARTS["responses"], compute=impossible)
    monkeypatch.setitem(PARTS, "responses", broken)
    (arun / "analysis" / "responses.npz").unlink()
    with pytest.raises(
        AnalysisError, match=r"not possible: responses \(The Jacobian is singular.\); fractional \(it n"
    ):
        analyse(arun, ["fractional", "spectrum"], SETTINGS, again=True, console=quiet())
    assert AnalysisFolder(arun).holds("spectrum")


def test_killed_between_parts_keeps_what_is_finished(arun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(PARTS, "gradients", dataclasses.replace(PARTS["gradients"], compute=killed))
    for name in ("spectrum", "gradients", "heterogeneity"):
        (arun / "analysis" / f"{name}.npz").unlink()
    with pytest.raises(KeyboardInterrupt):
        analyse(arun, settings=SETTINGS, console=quiet())
    monkeypatch.undo()
    assert AnalysisFolder(arun).holds("spectrum")
    assert analyse(arun, settings=SETTINGS, console=quiet()) == ["gradients", "heterogeneity"]


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        (
            "relu",
            {"what": ["controller"]},
            "controller: .* is a run of relu, expected one of arun: it has no controller",
        ),
        ("gamma-heterogeneous", {"what": ["gain-scaling"]}, "gain-scaling: .* it has no controller to analyse"),
        ("relu", {"what": ["fractional"]}, "fractional: .* expected one of arun or an RNN.γ: it has no γ to analyse"),
        ("lstm", {"what": ["spectrum"]}, "spectrum: .* is a run of lstm, expected one with a single matrix W_hh"),
        ("arun", {"what": ["fly"]}, "what: got 'fly', expected some of responses, fractional"),
        ("lstm", {}, "run: .* is a run of lstm, expected a network with γ .* measured by `aru robustness"),
        ("arun", {"checkpoint": "first"}, "checkpoint: got 'first', expected best or last"),
    ],
    ids=["controller", "static", "no-gamma", "gates", "unknown", "nothing", "checkpoint"],
)
def test_refusals(trained: dict[str, Path], name: str, arguments: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        analyse(trained[name], settings=SETTINGS, console=quiet(), **arguments)
    assert not (trained[name] / "analysis").exists()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"amplitudes": (0.0, 1.0)}, "amplitudes: got 0 1, expected at least 5 rising numbers from 0 on"),
        ({"amplitudes": (1.0, 2.0, 3.0, 4.0, 5.0)}, "amplitudes: got 1 2 3 4 5"),
        ({"amplitudes": (0.0, 2.0, 1.0, 4.0, 5.0)}, "amplitudes: got 0 2 1 4 5"),
        ({"amplitudes": (0.0, 1.0, 2.0, 3.0, float("inf"))}, "amplitudes: got 0 1 2 3 inf"),
        ({"grid": 1}, "grid: got 1, expected a whole number of at least 2"),
        ({"repeats": 0}, "repeats: got 0"),
        ({"steps": 9}, "steps: got 9"),
        ({"transient": -1}, "transient: got -1"),
        ({"starts": 0}, "starts: got 0"),
        ({"examples": 1}, "examples: got 1"),
        ({"fractional": "mine"}, "fractional: got 'mine', expected one of standard, figure-4, figures-10-12"),
        ({"noise_into": "input"}, "noise_into: got 'input', expected one of network, isolated"),
        ({"inputs": "linear"}, "inputs: got 'linear', expected one of exponential, amplitudes"),
        ({"sigma": "two"}, "sigma: got 'two', expected one of one, measured"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_settings_out_of_range(values: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Settings(**values)


def test_folders_without_a_run_or_checkpoint(tmp_path: Path, trained: dict[str, Path]) -> None:
    with pytest.raises(RunError, match="holds no run"):
        analyse(tmp_path, console=quiet())
    shutil.copy(trained["arun"] / "config.json", tmp_path)
    with pytest.raises(RunError, match=r"best\.pt does not exist: the run has not finished an epoch yet"):
        analyse(tmp_path, console=quiet())
    with pytest.raises(RunError, match=r"responses\.npz is missing; make it with `aru analyse .* responses`"):
        AnalysisFolder(tmp_path).load("responses")


def test_files_of_another_version_are_made_again(arun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analyses, "FORMAT", analyses.FORMAT + 1)
    with pytest.raises(RunError, match=r"spectrum\.npz can't be read \(it is outdated\); make it with `aru analyse"):
        AnalysisFolder(arun).load("spectrum")
    assert analyse(arun, ["spectrum"], SETTINGS, console=quiet()) == ["spectrum"]
    assert analyse(arun, ["spectrum"], SETTINGS, console=quiet()) == []


def test_last_checkpoint_is_another(arun: Path) -> None:
    assert analyse(arun, ["spectrum"], SETTINGS, checkpoint="last", console=quiet()) == ["spectrum"]


def test_command(trained: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(trained["arun"], tmp_path / "run"))
    assert main(["analyse", str(run), "spectrum", "heterogeneity", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "spectrum: spectral radius 1.000 before training" in printed
    assert set(times(run)) == {"spectrum", "heterogeneity"}
    assert main(["analyse", str(run), "spectrum", *OPTIONS]) == 0
    assert "spectrum: finished already" in capsys.readouterr().out
    assert main(["analyse", str(run), "fly"]) == 2
    assert capsys.readouterr().err.startswith("aru: what: got 'fly', expected some of responses")


def test_stopped_command_says_how_to_go_on(
    trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> Callable:
        raise KeyboardInterrupt

    monkeypatch.setattr(analyse_module, "analyse", interrupted)
    assert main(["analyse", str(trained["arun"])]) == 130
    assert "finished parts are kept, and the same command computes the others" in capsys.readouterr().err
