"""The commands on many runs: `aru sweep`, `robustness`, `transfer` and `reproduce`.

Whatever needs torch is imported by the command that runs, so that help and typing errors answer at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.arguments import check_choice, check_whole
from aru_lab.cli.options import ConfigFile, Execution, Quiet, RetrainingFile, Runs, check_runs
from aru_lab.errors import ConfigError, number_of
from aru_lab.networks.names import MODELS
from aru_lab.runs.config import CHECKPOINTS, TrainConfig
from aru_lab.runs.config_file import read_config_file
from aru_lab.runs.model_options import OF_MODELS, check_used


@dataclass(frozen=True)
class Sweep:
    """Train every combination of models, seeds and values of options; skip finished runs, resume killed ones.

    The options of `aru train` apply to all runs. --output is the folder of the sweep; its default is runs/sweep.
    """

    training: tyro.conf.OmitArgPrefixes[TrainConfig]

    models: tuple[str, ...] = MODELS
    """Models to train."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each is a separate run."""

    vary: tuple[str, ...] = ()
    """Further options to vary, such as learning_rate=1e-3,5e-4; every combination is trained."""

    match_parameters: bool = True
    """Choose the hidden sizes so that the number of parameters matches an ARUN of --hidden-size within 2%, or of the
    nearest size at which all models can."""

    jobs: int = 1
    """Processes; each uses its share of the cores unless --threads is given."""

    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """Weights that are tested. best: of the epoch with the best validation accuracy; last: of the last epoch."""

    config: ConfigFile = None

    quiet: Quiet = False

    @classmethod
    def from_config(cls, path: Path) -> Sweep:
        """The command with the options in a file; a sweep lists models and seeds itself."""
        return cls(read_config_file(path, ("output", "model", "seed")), config=path)

    def run(self) -> None:
        """Train, print a table, and write sweep.csv."""
        root = self.training.output or Path("runs/sweep")
        jobs = self.execution.where(self.jobs, root)
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)
        given = None if self.config is None else self.from_config(self.config).training
        check_sweep(self.training, self.models, self.vary, self.match_parameters, given)
        from rich.console import Console
        from rich.table import Table

        from aru_lab.errors import LabError, failed_together
        from aru_lab.experiments.sweep import plan, print_sizes, run_sweep, write_summary
        from aru_lab.runs.evaluation import task_of
        from aru_lab.terminal import plain, progress_console, say

        console, progress = Console(), progress_console()
        sentences: list[str] = []
        configs = plan(self.training, self.models, self.seeds, self.vary, root, self.match_parameters, sentences.append)
        for sentence in dict.fromkeys(sentences):
            say(progress, sentence)
        tasks = dict.fromkeys(map(task_of, configs))
        for remark in dict.fromkeys(remark for task in tasks for remark in task.remarks):
            say(progress, remark)
        print_sizes(configs, progress)
        results = run_sweep(configs, jobs, which=self.checkpoint)
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
                shown = "{:.2%}" if task_of(config).target.is_classes else "R² {:.4f}"
                numbers = (
                    str(len(result.history)),
                    shown.format(result.tested["validation_accuracy"]),
                    shown.format(result.clean.accuracy),
                )
                table.add_row(plain(config.run_folder.name), *numbers)
        console.print(table)
        if failure := failed_together(failed, len(configs)):
            raise failure


def check_sweep(
    config: TrainConfig,
    models: Sequence[str],
    vary: Sequence[str],
    match_parameters: bool,
    defaults: TrainConfig | None = None,
) -> None:
    """Refuse options of a sweep, other than the defaults, that none of its runs would read."""
    for name, option in (("model", "--models"), ("seed", "--seeds")):
        if (came := getattr(config, name)) != getattr(TrainConfig(), name):
            raise ConfigError(f"{name}: got {came!r}, expected {option}, which lists those of a sweep.")
    for model in models:
        check_choice("models", model, MODELS)
    check_used(config, models, ("controller_size",) if match_parameters else (), defaults)
    for name in (text.partition("=")[0] for text in vary):
        readers = OF_MODELS.get(name, models)
        if not set(models) & set(readers) and not (name == "controller_size" and match_parameters):
            raise ConfigError(f"vary: got {name} with {', '.join(models)}, expected one of {', '.join(readers)}.")


@dataclass(frozen=True)
class Robustness:
    """Accuracy and loss of runs of one task against the strength of every perturbation: a CSV and a figure.

    Runs of one model count as its seeds. Scores are kept in the run folder and are not computed again.
    """

    runs: Runs
    """Run folders."""

    output: Path = Path("robustness")
    """Path of the results without a suffix: OUTPUT.csv and OUTPUT.png."""

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

    quiet: Quiet = False

    def run(self) -> None:
        """Measure, write and say where."""
        check_whole("jobs", self.jobs, 1)
        from rich.console import Console

        from aru_lab.errors import failed_together
        from aru_lab.experiments.robustness import robustness
        from aru_lab.runs.sensitivity import Strengths
        from aru_lab.terminal import say

        given = {one.name: getattr(self, one.name, None) for one in dataclasses.fields(Strengths)}
        strengths = Strengths(**{name: value for name, value in given.items() if value is not None})
        rows, failures = robustness(self.runs, self.output, strengths, self.jobs)
        console, n = Console(), len(set(self.runs))
        found = f"{number_of(len(rows), 'point')} of {number_of(n - len(failures), 'run')}"
        say(console, f"{found}: {self.output}.csv, {self.output}.png")
        for run, error in failures.items():
            say(console, f"failed: {run} ({error})")
        if failure := failed_together(list(failures.values()), n):
            raise failure


@dataclass(frozen=True)
class Transfer:
    """Rotate the images by 45° and retrain only n and s (for the ARUN: the controller, which computes them)."""

    runs: Runs
    """Folders of runs of arun, gamma-homogeneous or gamma-heterogeneous; the retrained one is in RUN/transfer."""

    epochs: int = 30
    """Passes through the rotated training images."""

    learning_rate: float = 1e-2
    """Learning rate of n and s where they are parameters. All of them learn at this rate, as with
    --learning-rate-scaling none."""

    controller_learning_rate: float = 1e-3
    """Learning rate of the ARUN's controller, of all its parameters."""

    schedule: str = "cosine"
    """Course of the learning rate, as in `aru train`; the paper's is plateau-paper."""

    batch_size: int | None = None
    """Sequences a step of the optimizer; None takes the run's."""

    balanced: bool = False
    """Divide the test images so that both halves have as many images of each class, as in the paper."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """Weights that are retrained, and those of the retrained ones that count. best: of the epoch with the best
    validation accuracy, among them epoch 0, before the retraining; last: of the last epoch, as in the paper."""

    data: Path | None = None
    """File of sequences (docs/data.md), or a task whose trials are drawn, such as copy:delay=40, to retrain on in place
    of the rotated images."""

    jobs: int = 1
    """Processes."""

    config: RetrainingFile = None

    quiet: Quiet = False

    @classmethod
    def from_config(cls, path: Path) -> Transfer:
        """The command with the options in a file."""
        from aru_lab.experiments.transfer import read_retraining

        found = read_retraining(path)
        values = {one.name: getattr(found, one.name) for one in dataclasses.fields(found)}
        return cls(runs=(), config=path, **values)

    def run(self) -> None:
        """Retrain and print the accuracies."""
        check_whole("jobs", self.jobs, 1)
        check_whole("batch_size", self.batch_size, 1, optional=True)
        check_runs(self.runs)
        from rich.console import Console
        from rich.table import Table

        from aru_lab.errors import LabError, failed_together
        from aru_lab.experiments.processes import run_jobs
        from aru_lab.experiments.transfer import Retraining, transfer_item
        from aru_lab.runs.evaluation import target_of
        from aru_lab.terminal import plain, progress_console, say

        values = {one.name: getattr(self, one.name) for one in dataclasses.fields(Retraining)}
        retraining = Retraining(**values)
        upright, changed = "upright", "rotated by 45°"
        title = "Accuracy on the held-out half of the test images (paper: 94, 42, 56%)"
        if self.data is not None:
            upright, changed, title = "own data", self.data.name, "Score on the test examples"
        table = Table(title=plain(title))
        for heading in ("run", upright, changed, "n and s retrained", "epoch"):
            table.add_column(plain(heading), justify="left" if heading == "run" else "right", overflow="fold")
        items = [(run, retraining) for run in self.runs]
        failures, console = [], Console()
        for run, result in zip(self.runs, run_jobs(transfer_item, items, self.jobs, "retraining n and s"), strict=True):
            if isinstance(result, LabError):
                failures.append(result)
                table.add_row(plain(run), "failed", "-", "-", "-")
            else:
                scores = (result.before, result.rotated, result.retrained)
                shown = "{:.2%}" if target_of(run).is_classes else "R² {:.4f}"
                table.add_row(plain(run), *(shown.format(one.accuracy) for one in scores), str(result.epoch))
                epochs = ", ".join(shown.format(one.accuracy) for one in result.validation)
                say(progress_console(), f"{run}: on validation examples, from epoch 0: {epochs}")
        if len(failures) < len(self.runs):
            console.print(table)
        if failure := failed_together(failures, len(self.runs)):
            raise failure


@dataclass(frozen=True)
class Reproduce:
    """Run or resume everything that a result of the paper needs; write its table, or a verdict on each claim."""

    result: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="{paper,table1,fig2,transfer,transplant,figures}")
    ]
    """paper: a verdict on each of the paper's 53 claims, in one table and one HTML page with the figures; table1: all
    models, clean and perturbed; fig2: sensitivity to the strength of the perturbations; transfer: rotated images;
    transplant: another seed's controller; figures: analyses and the paper's figures on one task, in one HTML page."""

    scale: Annotated[str, tyro.conf.arg(metavar="{tiny,small,long,paper}")] = "small"
    """tiny: some minutes, a check that everything runs; small: psMNIST in 112 steps on two cores (paper: hours; the
    other results: within an hour); long: psMNIST in 784 steps, with paper only; paper: the size of the paper, for a
    GPU."""

    claims: tuple[str, ...] = ()
    """With paper: the claims to test, such as C17 C21, and no work for the others; none takes all."""

    networks: Path | None = None
    """With paper: folder of trained networks, as in docs/results/networks; nothing is trained. None trains what is
    missing."""

    runs: Path | None = None
    """Folder of the runs, which the results of a scale share; None takes runs/reproduce/SCALE, or runs/paper/SCALE
    with paper."""

    output: Path | None = None
    """Folder of the tables and figures; None takes RUNS/results."""

    jobs: int = 1
    """Processes. With paper they test and analyse; the networks are trained one by one."""

    execution: tyro.conf.OmitArgPrefixes[Execution] = field(default_factory=Execution)

    data_dir: Path | None = None
    """Folder with the images' files; None takes $ARU_DATA_DIR, and without it they are downloaded."""

    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda, cuda:1, ..."""

    quiet: Quiet = False

    def run(self) -> None:
        """Do the work and print the report."""
        from rich.console import Console
        from rich.markdown import Markdown

        from aru_lab.errors import failed_together

        kind = "paper" if self.result == "paper" else "reproduce"
        jobs = self.execution.where(self.jobs, self.runs or Path("runs") / kind / self.scale)
        if self.result == "paper":
            from aru_lab.experiments.paper.run import reproduce_paper

            own = {"data_dir": self.data_dir, "device": self.device}
            made = reproduce_paper(self.scale, self.claims, self.networks, self.runs, self.output, jobs, **own)
            markdown, failures = made.files["README.md"], made.failures
        else:
            for name in ("claims", "networks"):
                if getattr(self, name):
                    raise ConfigError(f"{name}: got a value with the result {self.result}, expected the result paper.")
            from aru_lab.experiments.reproduce import reproduce

            _, markdown, failures = reproduce(
                self.result, self.scale, self.runs, self.output, jobs, self.data_dir, self.device
            )
        Console().print(Markdown(markdown.read_text(encoding="utf-8")))
        if failure := failed_together(failures):
            raise failure
