"""The commands of `aru` as dataclasses: their fields are the options, their `run` does the work.

Whatever needs torch is imported by the command that runs, so that help and typing errors answer at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.analysis.commands import Analyse, Figure
from aru_lab.arguments import check_whole
from aru_lab.errors import ConfigError
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import TrainConfig

Run = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
STANDARD = ("step:amplitude=0.5", "noisy:deviation=1", "contrast:amplitude=0.5")


@dataclass(frozen=True)
class Train:
    """Train a network on a task, or continue a run that was stopped or killed.

    On several GPUs or processes: torchrun --nproc-per-node N -m aru_lab train ...
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig]

    resume: Path | None = None
    """Continue the run in this folder to its end. Everything else is taken from its config.json."""

    freeze_controller: bool = False
    """The same as --freeze activation: the controller keeps its initial values, such as those of --controller-from."""

    def run(self) -> None:
        """Train, and say where the run is and how to test it."""
        config = self.config
        if self.freeze_controller:
            if config.model != "arun":
                raise ConfigError(
                    f"freeze_controller: got the model {config.model}, expected arun, which alone has a controller."
                )
            config = dataclasses.replace(config, freeze=tuple(dict.fromkeys((*config.freeze, "activation"))))
        if self.resume is not None and config != TrainConfig():
            raise ConfigError(
                f"resume: got further arguments beside --resume {self.resume}, expected none: a run is continued with "
                "the configuration it was started with."
            )
        from rich.console import Console

        from aru_lab.runs import training
        from aru_lab.runs.distributed import is_first_process
        from aru_lab.runs.schedules import best_epoch
        from aru_lab.terminal import say

        result = training.train(config) if self.resume is None else training.resume(self.resume)
        if is_first_process():
            best = result.history[best_epoch(result.history)]
            say(
                Console(),
                f"Trained {result.n_parameters:,} parameters for {len(result.history)} epochs; best validation "
                f"accuracy {best['validation_accuracy']:.1%} in epoch {best['epoch']}.",
            )
            say(
                Console(),
                f"The run is saved in {result.run}; test it with: aru evaluate {result.run}",
            )


@dataclass(frozen=True)
class Evaluate:
    """Accuracy of a trained run on the test examples, unperturbed and under perturbations."""

    run_folder: Run
    """The folder of the run."""

    perturb: tuple[str, ...] = STANDARD
    """Perturbations, one row of the table each: step:amplitude=...,onset=...,length=...;
    noisy:deviation=...,mean=...,onset=...,length=...; contrast:amplitude=...,frequency=...,phase=...;
    random-contrast:amplitude=...,highest_frequency=... Only the first parameter has to be given; drives then begin at
    step T // 4 and last T // 2."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """best: the epoch with the best validation accuracy; last: the latest checkpoint."""

    data_dir: Path | None = None
    """Folder with the images' files; None takes the run's."""

    device: str | None = None
    """torch device; None takes the run's."""

    backend: str | None = None
    """Backend of aru_kernels; None takes the run's."""

    batch_size: int = 250
    """Sequences at once."""

    def run(self) -> None:
        """Evaluate and print a table."""
        check_whole("batch_size", self.batch_size, 1)
        from rich.console import Console
        from rich.table import Table

        from aru_lab.networks.perturbations import describe, parse
        from aru_lab.runs.evaluation import evaluate
        from aru_lab.terminal import say

        perturbations = [parse(text) for text in self.perturb]
        clean, perturbed = evaluate(
            self.run_folder, perturbations, self.checkpoint, self.data_dir, self.device, self.backend, self.batch_size
        )
        console = Console()
        say(console, f"{self.run_folder}: {clean.n:,} test sequences")
        table = Table()
        for heading in ("input", "accuracy", "loss"):
            table.add_column(heading, justify="left" if heading == "input" else "right")
        table.add_row("clean", f"{clean.accuracy:.2%}", f"{clean.loss:.4f}")
        for perturbation, result in zip(perturbations, perturbed, strict=True):
            table.add_row(describe(perturbation), f"{result.accuracy:.2%}", f"{result.loss:.4f}")
        console.print(table)


@dataclass(frozen=True)
class Curves:
    """Learning curves of runs, finished or under way: accuracy against epochs, as a figure."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""

    output: Path = Path("curves.png")
    """File to write; its suffix names the format."""

    def run(self) -> None:
        """Read, draw, and say where.

        Raises:
            LabError: a run can't be drawn; the others are.
        """
        from matplotlib.figure import Figure
        from rich.console import Console

        from aru_lab.errors import LabError, failed_together
        from aru_lab.plots.curves import learning_curves
        from aru_lab.runs.folder import RunFolder
        from aru_lab.runs.state import read_history
        from aru_lab.terminal import say

        _check_runs(self.runs)
        formats = Figure().canvas.get_supported_filetypes()
        if self.output.suffix[1:] not in formats:
            raise ConfigError(
                f"output: got {self.output}, expected a name that ends in .{', .'.join(sorted(formats))}."
            )
        names = [path.name for path in self.runs]
        histories = {}
        failures: list[LabError] = []
        for path in self.runs:
            folder = RunFolder(path)
            try:
                folder.read_config()
                history = read_history(folder)
                if not history:
                    raise ConfigError(f"run: {path} has not finished an epoch yet, expected at least one.")
            except LabError as error:
                failures.append(error)
                continue
            # sweeps name their runs alike
            histories[path.name if names.count(path.name) == 1 else str(path)] = history
        if histories:
            learning_curves(histories, self.output)
            say(Console(), f"Learning curves of {len(histories)} runs: {self.output}")
        if failure := failed_together(failures, len(self.runs)):
            raise failure


@dataclass(frozen=True)
class Demo:
    """Train an ARUN and an RNN+ReLU of equal size on permuted 8x8 digits, compare them, and draw a figure."""

    output: Path = Path("runs/demo")
    """Folder of the two runs and the figure. What is finished there is shown and not trained again."""

    def run(self) -> None:
        """Run the demonstration."""
        from aru_lab.experiments.demo import demo

        demo(self.output)


@dataclass(frozen=True)
class Sweep:
    """Train models times seeds times the values of any option; skip what is finished, resume what was killed.

    The options of `aru train` hold for all runs. --output is the folder of the sweep, runs/sweep where it is not given.
    """

    config: tyro.conf.OmitArgPrefixes[TrainConfig]

    models: tuple[str, ...] = MODELS
    """Models to train."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds, a run each."""

    vary: tuple[str, ...] = ()
    """Further options to vary, such as learning_rate=1e-3,5e-4; every combination is trained."""

    match_parameters: bool = True
    """Solve the hidden sizes so that all models have as many parameters, within 2%, as an ARUN of --hidden-size."""

    jobs: int = 1
    """Processes; each takes its share of the cores unless --threads says otherwise."""

    def run(self) -> None:
        """Train, print a table, and write sweep.csv."""
        check_whole("jobs", self.jobs, 1)
        from rich.console import Console
        from rich.table import Table

        from aru_lab.errors import LabError, failed_together
        from aru_lab.experiments.sweep import plan, print_sizes, run_sweep, write_summary
        from aru_lab.runs.evaluation import task_of
        from aru_lab.terminal import plain, say

        root = self.config.output or Path("runs/sweep")
        configs = plan(self.config, self.models, self.seeds, self.vary, root, self.match_parameters)
        console = Console()
        for remark in dict.fromkeys(remark for config in configs for remark in task_of(config).remarks):
            say(console, remark)
        print_sizes(configs, console)
        results = run_sweep(configs, self.jobs)
        write_summary(configs, results, root / "sweep.csv")
        say(console, f"Table: {root / 'sweep.csv'}")
        table = Table()
        for heading in ("run", "epochs", "validation", "test"):
            table.add_column(heading, justify="left" if heading == "run" else "right", overflow="fold")
        failed = []
        for config, result in zip(configs, results, strict=True):
            if isinstance(result, LabError):
                failed.append(result)
                table.add_row(plain(config.run_folder.name), "failed", "-", "-")
            else:
                best = max(entry["validation_accuracy"] for entry in result.history)
                numbers = (str(len(result.history)), f"{best:.2%}", f"{result.clean.accuracy:.2%}")
                table.add_row(plain(config.run_folder.name), *numbers)
        console.print(table)
        if failure := failed_together(failed, len(configs)):
            raise failure


@dataclass(frozen=True)
class Robustness:
    """Accuracy and loss of runs of one task against the strength of every perturbation: a CSV and a figure.

    Runs of one model are its seeds. What a run scored once is kept in its folder and not computed again.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders."""

    output: Path = Path("robustness")
    """Where the results go, without a suffix: OUTPUT.csv and OUTPUT.png."""

    jobs: int = 1
    """Processes."""

    step_amplitudes: tuple[float, ...] | None = None
    """Amplitudes ξ of the step drive; None takes the standard ones."""

    step_lengths: tuple[float, ...] | None = None
    """Lengths τ of the step drive as fractions of T, at most 0.75."""

    noise_deviations: tuple[float, ...] | None = None
    """Deviations σ_ξ of the noisy drive."""

    contrast_amplitudes: tuple[float, ...] | None = None
    """Amplitudes A of the variable contrast."""

    contrast_phases: tuple[float, ...] | None = None
    """Phases φ of the variable contrast, in units of π."""

    test_subset: int | None = None
    """Number of test examples; None takes all."""

    def run(self) -> None:
        """Measure, write and say where."""
        check_whole("jobs", self.jobs, 1)
        from rich.console import Console

        from aru_lab.errors import failed_together
        from aru_lab.experiments.robustness import robustness
        from aru_lab.runs.sensitivity import Strengths
        from aru_lab.terminal import say

        given = {field.name: getattr(self, field.name, None) for field in dataclasses.fields(Strengths)}
        strengths = Strengths(**{name: value for name, value in given.items() if value is not None})
        rows, failures = robustness(self.runs, self.output, strengths, self.jobs)
        console, n = Console(), len(set(self.runs))
        say(console, f"{len(rows)} points of {n - len(failures)} runs: {self.output}.csv, {self.output}.png")
        for run, error in failures.items():
            say(console, f"failed: {run} ({error})")
        if failure := failed_together(list(failures.values()), n):
            raise failure


@dataclass(frozen=True)
class Transfer:
    """Rotate the images by 45° and train only n and s again (for the ARUN: the controller, which makes them)."""

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders of runs of arun, gamma-homogeneous or gamma-heterogeneous; the retrained one is in RUN/transfer."""

    epochs: int = 30
    """Passes through the rotated training images."""

    learning_rate: float = 1e-2
    """Learning rate of n and s where they are parameters."""

    controller_learning_rate: float = 1e-3
    """Learning rate of the ARUN's controller."""

    jobs: int = 1
    """Processes."""

    def run(self) -> None:
        """Retrain and print the accuracies."""
        check_whole("jobs", self.jobs, 1)
        _check_runs(self.runs)
        from rich.console import Console
        from rich.table import Table

        from aru_lab.errors import LabError, failed_together
        from aru_lab.experiments.processes import run_jobs
        from aru_lab.experiments.transfer import Retraining, transfer_item
        from aru_lab.terminal import plain

        retraining = Retraining(self.epochs, self.learning_rate, self.controller_learning_rate)
        table = Table(title="Accuracy on the held-out half of the test images (paper: 94, 42, 56%)")
        for heading in ("run", "upright", "rotated by 45°", "n and s retrained"):
            table.add_column(heading, justify="left" if heading == "run" else "right", overflow="fold")
        items = [(run, retraining) for run in self.runs]
        failures = []
        for run, result in zip(self.runs, run_jobs(transfer_item, items, self.jobs, "retraining n and s"), strict=True):
            if isinstance(result, LabError):
                failures.append(result)
                table.add_row(plain(run), "failed", "-", "-")
            else:
                scores = (result.before, result.rotated, result.retrained)
                table.add_row(plain(run), *(f"{score.accuracy:.2%}" for score in scores))
        if len(failures) < len(self.runs):
            Console().print(table)
        if failure := failed_together(failures, len(self.runs)):
            raise failure


@dataclass(frozen=True)
class Reproduce:
    """Run or resume all that a result of the paper needs; write its table, the paper's claims and whether they hold."""

    result: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="{table1,fig2,transfer,transplant,figures}")]
    """table1: all models, clean and perturbed; fig2: sensitivity to the strength of the perturbations; transfer:
    rotated images; transplant: another seed's controller; figures: analyses, figures 1 to 6 and the appendix, with the
    paper's claims, in one HTML page."""

    scale: Annotated[str, tyro.conf.arg(metavar="{tiny,small,paper}")] = "small"
    """tiny: some minutes, shows that it runs; small: psMNIST on two cores within an hour; paper: the paper's size, for
    a GPU."""

    runs: Path | None = None
    """Folder of the runs, which the results of a scale share; None takes runs/reproduce/SCALE."""

    output: Path | None = None
    """Folder of the tables and figures; None takes RUNS/results."""

    jobs: int = 1
    """Processes."""

    data_dir: Path | None = None
    """Folder with the images' files; None takes $ARU_DATA_DIR, and without it they are downloaded."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    def run(self) -> None:
        """Do the work and print the report."""
        from rich.console import Console
        from rich.markdown import Markdown

        from aru_lab.errors import failed_together
        from aru_lab.experiments.reproduce import reproduce

        _, markdown, failures = reproduce(
            self.result, self.scale, self.runs, self.output, self.jobs, self.data_dir, self.device
        )
        Console().print(Markdown(markdown.read_text(encoding="utf-8")))
        if failure := failed_together(failures):
            raise failure


def _check_runs(runs: tuple[Path, ...]) -> None:
    if not runs:
        raise ConfigError("run: got no run, expected the folder of at least one.")


COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "curves": Curves,
    "sweep": Sweep,
    "robustness": Robustness,
    "transfer": Transfer,
    "reproduce": Reproduce,
    "analyse": Analyse,
    "figure": Figure,
    "demo": Demo,
}
