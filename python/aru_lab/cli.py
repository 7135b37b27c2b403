"""The console command `aru`: train, evaluate, demo, analyse, figure.

The options of `aru train` are the fields of TrainConfig. Whatever needs torch is imported by the command that runs, so
that help and typing errors answer at once.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.analysis.commands import Analyse, Figure
from aru_lab.config import TrainConfig
from aru_lab.errors import ConfigError, LabError


@dataclass(frozen=True)
class Train:
    """Train a network on a task, or continue a run that was stopped or killed."""

    config: tyro.conf.OmitArgPrefixes[TrainConfig]

    resume: Path | None = None
    """Continue the run in this folder to its end. Everything else is taken from its config.json."""

    def run(self) -> None:
        """Train, and say where the run is and how to test it."""
        if self.resume is not None and self.config != TrainConfig():
            raise ConfigError(
                f"resume: got further arguments beside --resume {self.resume}, expected none: a run is continued with "
                "the configuration it was started with."
            )
        from aru_lab import training

        result = training.train(self.config) if self.resume is None else training.resume(self.resume)
        best = max(result.history, key=lambda entry: (entry["validation_accuracy"], -entry["validation_loss"]))
        print(
            f"Trained {result.n_parameters:,} parameters for {len(result.history)} epochs; best validation accuracy "
            f"{best['validation_accuracy']:.1%} in epoch {best['epoch']}."
        )
        print(f"The run is saved in {result.run}; test it with: aru evaluate {result.run}")


@dataclass(frozen=True)
class Evaluate:
    """Accuracy of a trained run on the test examples, unperturbed and under a step drive."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The folder of the run."""

    drive_amplitude: tuple[float, ...] = (0.5,)
    """Amplitudes ξ of the step drive, added to every neuron's pre-activation; one row of the table each."""

    drive_onset: int | None = None
    """First driven step, counted from 0; None takes T // 4."""

    drive_length: int | None = None
    """Number of driven steps τ; None takes T // 2."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """best: the epoch with the best validation accuracy; last: the latest checkpoint."""

    data_dir: Path | None = None
    """Folder with MNIST's IDX files; None takes the run's."""

    device: str | None = None
    """torch device; None takes the run's."""

    backend: str | None = None
    """Backend of aru_kernels; None takes the run's."""

    batch_size: int = 250
    """Sequences at once."""

    def run(self) -> None:
        """Evaluate and print a table."""
        if self.batch_size < 1:
            raise ConfigError(f"batch_size: got {self.batch_size}, expected a whole number of at least 1.")
        from rich.console import Console
        from rich.table import Table

        from aru_lab.evaluation import evaluate
        from aru_lab.perturbations import StepDrive

        steps = [StepDrive(amplitude, self.drive_onset, self.drive_length) for amplitude in self.drive_amplitude]
        clean, driven = evaluate(
            self.run_folder, steps, self.checkpoint, self.data_dir, self.device, self.backend, self.batch_size
        )
        table = Table(title=f"{self.run_folder}: {clean.n:,} test sequences")
        for heading in ("input", "accuracy", "loss"):
            table.add_column(heading, justify="left" if heading == "input" else "right")
        table.add_row("clean", f"{clean.accuracy:.2%}", f"{clean.loss:.4f}")
        for step, result in zip(steps, driven, strict=True):
            table.add_row(f"step drive ξ = {step.amplitude:g}", f"{result.accuracy:.2%}", f"{result.loss:.4f}")
        Console().print(table)


@dataclass(frozen=True)
class Demo:
    """Train an ARUN and an RNN+ReLU of equal size on permuted 8x8 digits, compare them, and draw a figure."""

    output: Path = Path("runs/demo")
    """Folder of the two runs and the figure. What is finished there is shown and not trained again."""

    def run(self) -> None:
        """Run the demonstration."""
        from aru_lab.demo import demo

        demo(self.output)


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Analyse, tyro.conf.subcommand("analyse")]
    | Annotated[Figure, tyro.conf.subcommand("figure")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; None takes that of the process.

    Returns:
        The exit code: 0 done, 1 training met a number that is not finite, 2 the user has something to mend, 130 stopped
        by a signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments == ["--version"]:
            from aru_lab.provenance import version

            print(f"aru {version()}")
            return 0
        _parse(arguments or ["--help"]).run()
    except LabError as error:
        print(f"aru: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "aru: Stopped at once; a run under way continues from its last checkpoint with `aru train --resume RUN`.",
            file=sys.stderr,
        )
        return 130
    return 0


def _parse(arguments: list[str]) -> Train | Evaluate | Demo | Analyse | Figure:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                Command,
                prog="aru",
                args=arguments,
                description="The laboratory of aru_kernels. `aru --version` prints the version.",
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(_as_sentence(complaint.getvalue(), arguments)) from None


def _as_sentence(box: str, arguments: list[str]) -> str:
    # tyro draws a box with its title in the upper edge; what was wrong stands above the first rule. Edges and rules are
    # drawn with + | - where standard output takes only ASCII.
    inside = " ".join(line.strip(" |│╭╮╰╯+") for line in box.splitlines()[1:])
    wrong = next((part.strip() for part in re.split("[─-]{3,}", inside) if part.strip()), "the arguments don't fit")
    command = (
        " ".join(["aru", *arguments[:1]])
        if arguments[0] in ("train", "evaluate", "demo", "analyse", "figure")
        else "aru"
    )
    return f"{wrong.rstrip('.')}; `{command} --help` lists what is expected."
