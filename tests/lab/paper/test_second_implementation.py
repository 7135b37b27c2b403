"""Quantities behind the claims that do not hold, computed twice on kept networks: by the project and by `second`."""

from __future__ import annotations

import copy
import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from aru_kernels import GammaRNN
from aru_lab.analysis.fits import CURVES, compare, compared
from aru_lab.analysis.lyapunov import network_exponents
from aru_lab.analysis.settings import Settings
from aru_lab.data.images import Images
from aru_lab.data.sequences import Sequences
from aru_lab.data.tasks import IMAGE_TASKS, permutation
from aru_lab.experiments.analyse import analyse
from aru_lab.experiments.kept import read_kept
from aru_lab.experiments.paper.gather import values_of_log
from aru_lab.experiments.paper.judges import gradients as gradient_claims
from aru_lab.experiments.paper.judges.gain import form_is_favoured
from aru_lab.experiments.paper.protocol import SWEEPS
from aru_lab.experiments.paper.works import put_controller
from aru_lab.networks.perturbations import PaperStep, Sine
from aru_lab.runs.analyses import Run
from aru_lab.runs.evaluation import Score, score
from lab.paper.second import adaptation, model, stability, training

MODELS = ("arun", "gamma-heterogeneous", "gamma-homogeneous", "relu")
GATED = ("lstm", "gru")
# Few of everything, so that all of it takes seconds.
SETTINGS = Settings(
    (0.0, 1.0, 5.0, 15.0, 30.0), repeats=2, sequences=4, examples=40, starts=2, steps=20, transient=5, grid=2
)
FEW = 100  # test images
FLOAT32 = 2e-4  # relative; the project's networks run in float32. Measured: at most 2e-5 in the quantities below


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, mnist_dir: Path) -> dict[str, Run]:
    """The kept networks of seed 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARU_DATA_DIR", str(mnist_dir))
        folder = tmp_path_factory.mktemp("kept")
        kept = {network.name: network for network in read_kept(model.KEPT)}
        found = {name: Run(kept[f"{name}-seed0"].restore(folder), "last") for name in MODELS + GATED}
        data = found["relu"].data  # of all: the order of the pixels depends on the seed alone
        for run in found.values():
            run.__dict__["data"] = data
        return found


@pytest.fixture(scope="module")
def analysed(runs: dict[str, Run], mnist_dir: Path) -> dict[str, SimpleNamespace]:
    """The project's analyses: arrays by model and part."""
    parts = {
        "arun": ("adaptation", "stability", "controller", "gain-scaling", "gradients", "lyapunov"),
        "gamma-heterogeneous": ("gradients", "lyapunov"),
        "relu": ("gradients",),
    }
    found: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARU_DATA_DIR", str(mnist_dir))
        for name, what in parts.items():
            analyse(runs[name].path, what, SETTINGS, "last", console=Console(file=io.StringIO()))
            found[name] = {part: dict(np.load(runs[name].path / "analysis" / f"{part}.npz")) for part in what}
    return found


@pytest.fixture(scope="module")
def networks() -> dict[str, model.Network]:
    return {name: model.read(f"{name}-seed0") for name in MODELS}


@pytest.fixture(scope="module")
def images(runs: dict[str, Run]) -> tuple[model.Array, Any]:
    """The first test sequences and their labels."""
    return _first(runs["relu"].data.test, FEW)


def _first(sequences: Sequences, n: int) -> tuple[model.Array, Any]:
    return sequences.x[:n].astype(np.float64), sequences.y[:n]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("perturbation", "drive"),
    [(None, 0.0), (PaperStep(5.0), 5.0)],
    ids=["clean", "step"],
)
def test_scores(
    runs: dict[str, Run],
    networks: dict[str, model.Network],
    images: tuple[model.Array, Any],
    name: str,
    perturbation: Any,
    drive: float,
) -> None:
    """C1, C18, C53: accuracy and cross-entropy, clean and driven."""
    x, y = images
    h, _ = model.run(networks[name], x, model.step_drive(drive), keep=False)
    outputs = model.logits(networks[name], h)
    _same_score(score(runs[name].model, runs[name].test.take(slice(FEW)), perturbation=perturbation), outputs, y)


@pytest.mark.parametrize("name", MODELS + GATED)
@pytest.mark.parametrize("phase", [0.0, 1.0])
def test_scores_under_a_contrast(
    runs: dict[str, Run], networks: dict[str, model.Network], images: tuple[model.Array, Any], name: str, phase: float
) -> None:
    """C10, C14: LSTM and GRU beside the others, and a phase of the contrast."""
    x, y = images
    x = model.contrast(x, 0.7, phase=phase)
    if name in GATED:
        network = model.read_gated(f"{name}-seed0")
        outputs = model.logits(network, model.run_gated(network, x))
    else:
        outputs = model.logits(networks[name], model.run(networks[name], x, keep=False)[0])
    perturbation = Sine(0.7, phase=phase)
    _same_score(score(runs[name].model, runs[name].test.take(slice(FEW)), perturbation=perturbation), outputs, y)


@pytest.mark.parametrize("contrast", [None, Sine()], ids=["clean", "sine"])
def test_scores_with_the_controller_of_another_seed(
    runs: dict[str, Run],
    networks: dict[str, model.Network],
    images: tuple[model.Array, Any],
    contrast: Sine | None,
    tmp_path: Path,
) -> None:
    """C45: nothing is trained again."""
    (donor,) = (network for network in read_kept(model.KEPT) if network.name == "arun-seed1")
    exchanged = copy.deepcopy(runs["arun"].model)
    put_controller(exchanged, donor.restore(tmp_path))
    x, y = images
    if contrast is not None:
        x = model.contrast(x, 0.5)
    network = model.with_controller(networks["arun"], model.read("arun-seed1"))
    outputs = model.logits(network, model.run(network, x, keep=False)[0])
    _same_score(score(exchanged, runs["arun"].test.take(slice(FEW)), perturbation=contrast), outputs, y)


def _same_score(found: Score, outputs: model.Array, y: Any) -> None:
    shifted = outputs - outputs.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(FEW), y]
    assert found.loss == pytest.approx(loss.mean(), rel=FLOAT32)
    assert found.accuracy == (outputs.argmax(1) == y).mean()


def test_sweeps_are_those_of_the_protocol() -> None:
    """C53: the strengths of both sweeps, without the clean point."""
    steps, contrasts = SWEEPS["step sweep"](model.T), SWEEPS["contrast sweep"](model.T)
    assert [xi for (xi,) in steps] == [xi for xi in model.AMPLITUDES if xi > 0]
    assert [a for (a,) in contrasts] == pytest.approx([k / 10 for k in range(1, 11)])
    for (xi,), perturbation in steps.items():
        np.testing.assert_array_equal(perturbation.drive(model.T), model.step_drive(xi)[:, 0, 0])
    assert all((one.frequency, one.phase) == (1, 0) for one in contrasts.values())


def test_rest_and_onset_of_a_step(
    analysed: dict[str, Any], networks: dict[str, model.Network], images: tuple[model.Array, Any]
) -> None:
    """C35, C36: distance from the boundary at rest, and γ' in the first driven step."""
    rest, onset = adaptation.distances(networks["arun"], images[0][:4], SETTINGS.amplitudes)
    np.testing.assert_allclose(analysed["arun"]["stability"]["distance"], rest, rtol=FLOAT32)
    np.testing.assert_allclose(analysed["arun"]["stability"]["slope_onset"], onset, rtol=FLOAT32)


def test_decays_after_an_onset(
    analysed: dict[str, Any], networks: dict[str, model.Network], images: tuple[model.Array, Any]
) -> None:
    """C25: courses of n and s, the exponentials fitted to them, and what FIT says of them."""
    arrays = analysed["arun"]["adaptation"]
    driven = slice(model.ONSET, model.ONSET + model.LENGTH)
    times = np.arange(1.0, model.LENGTH + 1)
    fitted = [xi for xi in SETTINGS.amplitudes if xi >= 1]
    k = arrays["fit_curves"].tolist().index("exponential")
    for i, xi in enumerate(fitted):
        courses = adaptation.courses(networks["arun"], images[0][:4], xi)
        for j, course in enumerate(courses):
            theirs = arrays["ns"[j]][SETTINGS.amplitudes.index(xi)]
            np.testing.assert_allclose(theirs, course, atol=FLOAT32 * np.ptp(course))
            one, favoured = adaptation.claimed(times, theirs[driven], "exponential")
            for index, kind in enumerate(arrays["fit_curves"].tolist()):
                again = adaptation.fit(times, theirs[driven], kind)
                assert arrays["fit_r_squared"][i, j, index] == pytest.approx(again.r_squared, abs=1e-5)
                assert arrays["fit_aicc"][i, j, index] == pytest.approx(again.aicc, abs=1e-2)
            if one.low > 0 or one.high < 0:
                np.testing.assert_allclose(
                    arrays["fit_parameters"][i, j, k, :, 1], (one.b, one.low, one.high), rtol=1e-3
                )
            assert form_is_favoured(arrays, (i, j), "exponential", "power") == favoured


def test_rest_under_noise(analysed: dict[str, Any], networks: dict[str, model.Network]) -> None:
    """C22: n and s at rest, from the project's noise."""
    arrays = analysed["arun"]["gain-scaling"]
    draws = [np.random.default_rng([0, repeat]).standard_normal((600, 1, 64)) for repeat in range(2)]
    noise = np.concatenate(draws, axis=1)[:400]
    for xi in (1.0, 15.0):
        found = adaptation.at_rest_under_noise(networks["arun"], xi, noise)
        for name, mine in zip("ns", found, strict=True):
            theirs = arrays[name][SETTINGS.amplitudes.index(xi)]
            np.testing.assert_allclose(theirs, mine, atol=FLOAT32 * np.abs(arrays[name]).max())


@pytest.mark.parametrize("form", ["power", "exponential"])
@pytest.mark.parametrize("b", [0.3, 0.9])
def test_fits_over_the_deviations_of_noise(form: str, b: float) -> None:
    """C22: parameters, R² and criteria at the eight deviations from 1 on, of steep curves too."""
    xi = np.array([a for a in model.AMPLITUDES if a >= 1])
    y = CURVES[form](xi, -0.02, b, 0.01) + 5e-5 * np.random.RandomState(0).randn(len(xi))
    found = compare(xi, y)
    for i, kind in enumerate(CURVES):
        mine = adaptation.fit(xi, y, kind)
        assert found.r_squared[i] == pytest.approx(mine.r_squared, abs=1e-6)
        assert found.aicc[i] == pytest.approx(mine.aicc, abs=1e-3)
        if kind == form:
            np.testing.assert_allclose(found.parameters[i, :, 1], (mine.b, mine.low, mine.high), rtol=1e-3)
    arrays = compared([found], (1,))
    for claimed, other in (("power", "exponential"), ("exponential", "power")):
        favoured = adaptation.claimed(xi, y, claimed)[1]
        assert favoured == (claimed == form)
        assert form_is_favoured(arrays, (0,), claimed, other) == favoured


def test_curve_through_final_states(analysed: dict[str, Any], networks: dict[str, model.Network]) -> None:
    """C34: from the same initial states, which the first numbers of the same generator are."""
    mine = adaptation.on_a_curve(networks["arun"], 2, np.random.default_rng(0))
    assert float(analysed["arun"]["controller"]["curve_explained"]) == pytest.approx(mine, abs=1e-6)


@pytest.mark.parametrize("name", ["arun", "gamma-heterogeneous"])
def test_exponents(
    analysed: dict[str, Any],
    runs: dict[str, Run],
    networks: dict[str, model.Network],
    images: tuple[model.Array, Any],
    name: str,
) -> None:
    """C37: two exponents from the same states and the same Q, then those that the analysis stores.

    After some hundred steps of a chaotic map nothing of a state's last bits is the same, so the steps are few.
    """
    network, x, at = networks[name], images[0][:2], 50  # 150 of 784 steps after the onset
    q = torch.linalg.qr(torch.randn(len(network.bias), 2, dtype=torch.float64, generator=torch.manual_seed(0)))[0]
    _, trace = model.run(network, x, model.step_drive(5.0))
    mine = stability.exponents(network, x, 5.0, at, q.numpy(), steps=30, transient=5)
    held = (trace.n[at], trace.s[at]) if name == "arun" else None
    options = {"steps": 30, "transient": 5, "seed": 0, "bias": False}
    found = network_exponents(runs[name].network, 2, 0.0, held, trace.h[at], **options)
    np.testing.assert_allclose(found.exponents, mine, atol=1e-6)
    one = torch.linalg.qr(torch.randn(len(network.bias), 1, dtype=torch.float64, generator=torch.manual_seed(0)))[0]
    stored = analysed[name]["lyapunov"]
    i = SETTINGS.amplitudes.index(5.0)
    mine = stability.exponents(network, x, 5.0, at, one.numpy(), SETTINGS.steps, SETTINGS.transient)[:, 0]
    np.testing.assert_allclose(stored["largest"][0, stored["conditions"].tolist().index("none"), i], mine, atol=1e-4)


@pytest.mark.parametrize("name", ["arun", "gamma-heterogeneous", "relu"])
def test_gradients_by_position(
    analysed: dict[str, Any], runs: dict[str, Run], networks: dict[str, model.Network], name: str
) -> None:
    """C46, C47, C49."""
    arrays, network = analysed[name]["gradients"], networks[name]
    x, y = _first(runs["relu"].data.train, 40)
    halves = stability.terms(network, x[:20], y[:20]), stability.terms(network, x[20:], y[20:])
    terms = (halves[0] + halves[1]) / 2
    norms = stability.accumulated(terms, stability.POSITIONS)
    assert arrays["positions"].tolist() == stability.POSITIONS
    np.testing.assert_allclose(arrays["accumulated_after"][stability.POSITIONS], norms, rtol=FLOAT32)
    assert stability.with_state_held(network, x, y, 40) == pytest.approx(norms[10], rel=1e-9)
    growth = gradient_claims._growth(arrays), gradient_claims._slope(arrays)
    assert growth == pytest.approx(stability.growth(norms), abs=1e-4)
    fall = stability.rise_and_fall(*(stability.accumulated(half, stability.POSITIONS) for half in halves))
    assert gradient_claims._fall_from_maximum(arrays) == pytest.approx(fall, abs=1e-4)
    assert gradient_claims._early_over_late(arrays) == pytest.approx(stability.early_and_late(terms), abs=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_unsteadiness_of_gradients(name: str) -> None:
    """C50: from the log of the training."""
    metrics = model.record(f"{name}-seed0")["metrics"]
    assert values_of_log(metrics)[gradient_claims.SD_OF_NORMS] == pytest.approx(training.unsteadiness(metrics))


def test_rotated_images(images: tuple[model.Array, Any]) -> None:
    """C20: the project's rotation and the other one; where a pixel reaches over the edge, conventions differ."""
    order = np.argsort(permutation(784, 0))
    upright = images[0].reshape(FEW, 784)[:, order].reshape(FEW, 28, 28)
    task = dataclasses.replace(IMAGE_TASKS["balanced-rotated-psmnist"], permuted=False)
    pixels = Images(np.round(255 * upright).astype(np.uint8), images[1])
    turned = task._sequences(pixels, 255).x.reshape(FEW, 28, 28)
    difference = np.abs(training.rotated(upright) - turned)
    inside = training.rotated(np.pad(np.ones((1, 26, 26)), ((0, 0), (1, 1), (1, 1))))[0] > 1 - 1e-9
    assert inside.sum() > 500
    assert difference[:, inside].max() < 1.01 / 255  # the project's are whole grey levels


def test_retraining_takes_the_steps_of_adam(
    networks: dict[str, model.Network], images: tuple[model.Array, Any]
) -> None:
    """C20: n and s after two steps, beside torch's Adam on the project's network."""
    network = networks["gamma-heterogeneous"]
    x, y = (part[:20] for part in images)
    rnn = GammaRNN(7, len(network.bias), dtype=torch.float64)
    values = {"weight_ih": network.w_ih, "weight_hh": network.w_hh, "bias": network.bias}
    values |= {"gain": network.n, "saturation": network.s}
    rnn.load_state_dict({f"{key}_l0": torch.from_numpy(value) for key, value in values.items()})
    optimizer = torch.optim.Adam([rnn.gain_l0, rnn.saturation_l0], lr=1e-4)
    readout, bias = torch.from_numpy(network.readout), torch.from_numpy(network.readout_bias)
    order = np.random.default_rng(0).permutation(20)
    for chosen in (order[:10], order[10:]):
        output, _ = rnn(torch.from_numpy(x[chosen]).transpose(0, 1))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(output[-1] @ readout.T + bias, torch.from_numpy(y[chosen])).backward()
        optimizer.step()
    n, s = training.retrain(network, x, y, 1, np.random.default_rng(0), batch=10)
    np.testing.assert_allclose(rnn.gain_l0.detach().numpy() - network.n, n - network.n, atol=1e-9)
    np.testing.assert_allclose(rnn.saturation_l0.detach().numpy() - network.s, s - network.s, atol=1e-9)
