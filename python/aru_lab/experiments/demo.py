"""`aru demo`: an adaptive network and an RNN+ReLU of equal size learn permuted 8x8 digits, and are compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from aru_kernels.functional import gamma
from aru_lab.errors import RunError
from aru_lab.networks.classifier import count_parameters, match_hidden_size
from aru_lab.networks.perturbations import StepDrive
from aru_lab.plots.curves import NeuronCurves, demo_figure
from aru_lab.plots.style import NAMES
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import Score, build_for, evaluate, load_classifier, task_of, to_tensors
from aru_lab.runs.folder import RunFolder
from aru_lab.runs.runtime import run_on
from aru_lab.runs.training import TrainResult, resume, train
from aru_lab.terminal import plain, progress_console, say


def _default_training() -> TrainConfig:
    return TrainConfig(
        task="psdigits",
        model="arun",
        hidden_size=64,
        controller_size=16,
        epochs=50,
        batch_size=32,
        # one rate: by fan-in the controller learns slowly, and in 50 epochs the network does not become robust
        learning_rate=2e-3,
        learning_rate_scaling="none",
        input_noise=0.13,
        threads=1,
    )


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demonstration; the defaults take less than three minutes on two cores with any backend.

    amplitudes: of the step drives in the table; figure_amplitudes: of those in the figure, beside the clean input.
    `training` is the configuration of the ARUN. The RNN+ReLU differs only in its hidden size, which gives it as
    many parameters, and, if `training` leaves it open, in its learning rate. Steps this small do not benefit from a
    second thread.
    """

    training: TrainConfig = field(default_factory=_default_training)
    amplitudes: tuple[float, ...] = (-1.0, 1.0)
    figure_amplitudes: tuple[float, ...] = (-2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True)
class DemoResult:
    """Results of the demonstration by model: number of parameters, seconds of training, and scores."""

    n_parameters: dict[str, int]
    seconds: dict[str, float]
    clean: dict[str, Score]
    driven: dict[str, list[Score]]
    figure: Path


def demo(output: Path, settings: DemoSettings | None = None, console: Console | None = None) -> DemoResult:
    """Train both networks, print a table of test accuracies, and draw a figure.

    Args:
        output: folder for the two runs and demo.png. A run that was stopped there is continued, a finished one is taken
            as it is.
        settings: what to train; None takes the defaults.
        console: where to print; None is standard output.

    Raises:
        RunError: the folder holds a demonstration with other settings.
    """
    settings = settings or DemoSettings()
    results, console = console or Console(), console or progress_console()
    configs = _configurations(settings.training, output)
    runs: dict[str, TrainResult] = {}
    for model, config in configs.items():
        console.print()
        size = f": H = {config.hidden_size} neurons, {_count(config):,} parameters, task {config.task}"
        say(console, plain(NAMES[model], "bold"), size)
        runs[model] = _train_or_continue(config, console)

    perturbations = [StepDrive(amplitude) for amplitude in settings.amplitudes]
    drawn = [StepDrive(amplitude) for amplitude in settings.figure_amplitudes]
    scores, robustness = {}, {}
    for model, run in runs.items():
        clean, driven = evaluate(run.run, perturbations + drawn)
        scores[model] = clean, driven[: len(perturbations)]
        points = dict(zip(settings.figure_amplitudes, driven[len(perturbations) :], strict=True)) | {0.0: clean}
        robustness[NAMES[model]] = {amplitude: points[amplitude].accuracy for amplitude in sorted(points)}
    path = output / "demo.png"
    _draw(runs, robustness, perturbations[-1], path)
    result = DemoResult(
        n_parameters={model: run.n_parameters for model, run in runs.items()},
        seconds={model: sum(entry["seconds"] for entry in run.history) for model, run in runs.items()},
        clean={model: clean for model, (clean, _) in scores.items()},
        driven={model: driven for model, (_, driven) in scores.items()},
        figure=path,
    )
    _print_table(result, perturbations, results)
    say(results, f"Figure: {path}")
    return result


def _configurations(training: TrainConfig, output: Path) -> dict[str, TrainConfig]:
    arun = dataclasses.replace(training, output=output / "arun")
    hidden_size = match_hidden_size("relu", _count(arun), input_size=task_of(arun).input_size)
    relu = dataclasses.replace(training, model="relu", hidden_size=hidden_size, output=output / "relu")
    return {"arun": arun.with_learning_rate(), "relu": relu.with_learning_rate()}


def _count(config: TrainConfig) -> int:
    return count_parameters(build_for(config, task_of(config), torch.device("meta")))


def _train_or_continue(config: TrainConfig, console: Console) -> TrainResult:
    folder = RunFolder(config.run_folder)
    if not folder.holds_run():
        return train(config, console)
    if folder.read_config()[0] != config:
        raise RunError(
            f"{folder.path} holds a demonstration with other settings: name another folder with --output, or delete "
            "this one."
        )
    return resume(folder.path, console)


def _draw(runs: dict[str, TrainResult], robustness: dict[str, dict[float, float]], step: StepDrive, path: Path) -> None:
    """Learning curves, accuracy under step drives, and γ of four neurons of the ARUN.

    The ARUN reads one test sequence under the step drive.  robustness: by model and amplitude, the test accuracy.
    """
    model, config = load_classifier(runs["arun"].run)
    parameter = next(model.parameters())
    test = task_of(config).load(config.data_dir).test
    x, _ = to_tensors(test, slice(1), parameter.device, parameter.dtype)
    n_steps = x.shape[1]
    onset, end = step.bounds(n_steps)
    with torch.no_grad(), run_on(config.backend, model, config.matmul_precision):
        _, _, trace = model.recurrent(x.transpose(0, 1), drive=step.drive(n_steps), return_trace=True)
    a, n, s = (tensor[:, 0].double().cpu() for tensor in trace)

    moments = {"first step": 0, "before the drive": onset - 1, "end of the drive": end - 1}
    times = list(moments.values())
    # From the silent side of the kink to the highest input that a neuron gets, rare extremes apart: (grid, neurons).
    high = torch.quantile(a, 0.98, dim=0)
    grid = -2 + (high.clamp(min=2) + 2) * torch.linspace(0, 1, 200, dtype=a.dtype)[:, None]
    curves = torch.stack([gamma(grid, n[t], s[t]) for t in times])
    # Of the neurons that are active in this sequence, from one in the middle to the one that the drive changes most.
    change = (curves[2] - curves[1]).abs().mean(dim=0) / curves[1].abs().mean(dim=0)
    active = torch.nonzero(high > 0.5)[:, 0]
    ranked = active[change[active].argsort()] if len(active) else change.argsort()
    chosen = ranked[torch.linspace(len(ranked) // 2, len(ranked) - 1, 4).round().long()].unique_consecutive().tolist()
    demo_figure(
        histories={NAMES[model]: run.history for model, run in runs.items()},
        robustness=robustness,
        neurons=[
            NeuronCurves(
                title=f"neuron {i}\nn: {_course(n[times, i])}   s: {_course(s[times, i])}",
                x=grid[:, i].numpy(),
                moments={name: curves[k, :, i].numpy() for k, name in enumerate(moments)},
            )
            for i in chosen
        ],
        title=f"ARUN: γ of four neurons, step drive ξ = {step.amplitude:g} in steps {onset + 1} to {end}",
        path=path,
    )


def _course(values: torch.Tensor) -> str:
    return " → ".join(f"{value:.2f}" for value in values.tolist())


def _print_table(result: DemoResult, perturbations: list[StepDrive], console: Console) -> None:
    n_test = result.clean["arun"].n
    table = Table(title=f"Accuracy on {n_test} test sequences")
    for heading in ("model", "parameters", "training", "clean", *(f"step ξ = {p.amplitude:g}" for p in perturbations)):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for model, clean in result.clean.items():
        table.add_row(
            NAMES[model],
            f"{result.n_parameters[model]:,}",
            f"{result.seconds[model]:.0f} s",
            f"{clean.accuracy:.1%}",
            *(f"{score.accuracy:.1%}" for score in result.driven[model]),
        )
    console.print()
    console.print(table)
