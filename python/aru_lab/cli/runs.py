"""The commands on single runs: `aru train`, `evaluate`, `curves` and `demo`.

Whatever needs torch is imported by the command that runs, so that help and typing errors answer at once.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from aru_lab.arguments import check_whole
from aru_lab.cli.options import ConfigFile, Quiet, Run, Runs, check_runs
from aru_lab.errors import ConfigError, number_of, typed
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.config_file import read_config_file
from aru_lab.runs.model_options import check_used

STANDARD = ("step:amplitude=0.5", "noisy:deviation=1", "contrast:amplitude=0.5")


@dataclass(frozen=True)
class Train:
    """Train a network on a task, or continue a run that was stopped or killed.

    On several GPUs or processes: torchrun --nproc-per-node N -m aru_lab train ...
    """

    training: tyro.conf.OmitArgPrefixes[TrainConfig]

    resume: Path | None = None
    """Continue the run in this folder to its end. All other settings come from its config.json."""

    freeze_controller: bool = False
    """Same as --freeze activation: the controller keeps its initial values, for example those of --controller-from."""

    config: ConfigFile = None

    quiet: Quiet = False

    @classmethod
    def from_config(cls, path: Path) -> Train:
        """The command with the options in a file."""
        return cls(read_config_file(path), config=path)

    def run(self) -> None:
        """Train, and say where the run is and how to test it."""
        config = self.training
        if self.freeze_controller:
            if config.model != "arun":
                raise ConfigError(
                    f"freeze_controller: got the model {config.model}, expected arun, the only model with a controller."
                )
            config = dataclasses.replace(config, freeze=tuple(dict.fromkeys((*config.freeze, "activation"))))
        given = None if self.config is None else self.from_config(self.config).training
        check_used(config, (config.model,), defaults=given)
        if self.resume is not None and (config != TrainConfig() or self.config is not None):
            raise ConfigError(
                f"resume: got further arguments beside --resume {self.resume}, expected none: a run is continued with "
                "the configuration it was started with."
            )
        from rich.console import Console

        from aru_lab.runs import training
        from aru_lab.runs.distributed import is_first_process
        from aru_lab.runs.evaluation import target_of
        from aru_lab.runs.schedules import best_epoch
        from aru_lab.terminal import say

        result = training.train(config) if self.resume is None else training.resume(self.resume)
        if is_first_process():
            best = result.history[best_epoch(result.history)]
            say(
                Console(),
                f"Trained {result.n_parameters:,} parameters for {number_of(len(result.history), 'epoch')}; best "
                f"validation {target_of(result.run).quality(best['validation_accuracy'])} in epoch {best['epoch']}.",
            )
            say(
                Console(),
                f"The run is saved in {result.run}; test it with: aru evaluate {typed(result.run)}",
            )


@dataclass(frozen=True)
class Evaluate:
    """Accuracy of a trained run on the test examples, unperturbed and under perturbations."""

    run_folder: Run
    """The folder of the run."""

    perturb: tuple[str, ...] = STANDARD
    """Perturbations, one row of the table for each: step:amplitude=...,onset=...,length=...,strict=true;
    noisy:deviation=...,mean=...,onset=...,length=...,strict=true,shared=true;
    contrast:amplitude=...,frequency=...,phase=...; random-contrast:amplitude=...,highest_frequency=...,shared=true.
    Only the first parameter is required; drives then begin at step T // 4 and last T // 2 steps. paper-step,
    paper-noise and sine have the same parameters with the paper's values as defaults (ξ = 1; mean 5, deviation √2; A =
    0.5; drives from step 200 for 200 steps of 784, in proportion to T). strict: the drive leaves its first step out;
    shared: one draw for a batch; both as in the authors' code."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """best: the epoch with the best validation accuracy; last: the latest checkpoint."""

    data_dir: Path | None = None
    """Folder with the images' files; None takes the run's."""

    device: str | None = None
    """torch device; None takes the run's."""

    backend: str | None = None
    """Backend of aru_kernels; None takes the run's."""

    batch_size: int = 250
    """Sequences in one batch."""

    quiet: Quiet = False

    def run(self) -> None:
        """Evaluate and print a table."""
        check_whole("batch_size", self.batch_size, 1)
        from rich.console import Console

        from aru_lab.networks.perturbations import describe, parse
        from aru_lab.runs.display import show_evaluation
        from aru_lab.runs.evaluation import evaluate_in_detail
        from aru_lab.terminal import say

        perturbations = [parse(text) for text in self.perturb]
        found = evaluate_in_detail(
            self.run_folder, perturbations, self.checkpoint, self.data_dir, self.device, self.backend, self.batch_size
        )
        console = Console()
        what = "test sequences" if not found.target.every_step else "targets at steps of test sequences"
        say(console, f"{self.run_folder}: {found.clean.score.n:,} {what}")
        show_evaluation(console, found, list(map(describe, perturbations)))


@dataclass(frozen=True)
class Predict:
    """Predict the targets of new sequences with a trained run: classes with their probabilities, or numbers."""

    run_folder: Run
    """The folder of the run."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """File of sequences x (N, T, I), and lengths (N,) if they differ. They are prepared as those of the training."""

    output: Path = Path("predictions.npz")
    """File to write: classes, probabilities and names, or numbers."""

    states: bool = False
    """Write what the neurons did, too: h and, of networks with γ, a, n and s, each (N, T, H)."""

    checkpoint: Annotated[str, tyro.conf.arg(metavar="{best,last}")] = "best"
    """best: the epoch with the best validation accuracy; last: the latest checkpoint."""

    device: str | None = None
    """torch device; None takes the run's."""

    batch_size: int = 250
    """Sequences in one batch."""

    def run(self) -> None:
        """Predict, and say where the predictions are."""
        check_whole("batch_size", self.batch_size, 1)
        from rich.console import Console

        from aru_lab.runs.prediction import predict_file
        from aru_lab.terminal import say

        found = predict_file(
            self.run_folder,
            self.file,
            self.output,
            self.states,
            self.batch_size,
            checkpoint=self.checkpoint,
            device=self.device,
        )
        first = next(iter(found.values()))
        say(Console(), f"Predictions of {number_of(len(first), 'sequence')}: {self.output} ({', '.join(found)})")


@dataclass(frozen=True)
class Curves:
    """Learning curves of runs, finished or under way: accuracy against epochs, as a figure."""

    runs: Runs
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
        from aru_lab.runs.state import measure_of, read_history
        from aru_lab.terminal import say

        check_runs(self.runs)
        formats = Figure().canvas.get_supported_filetypes()
        if self.output.suffix[1:] not in formats:
            raise ConfigError(
                f"output: got {self.output}, expected a name that ends in .{', .'.join(sorted(formats))}."
            )
        names = [path.name for path in self.runs]
        histories, measures = {}, set()
        failures: list[LabError] = []
        for path in self.runs:
            folder = RunFolder(path)
            try:
                _, environment = folder.read_config()
                history = read_history(folder)
                if not history:
                    raise ConfigError(f"run: {path} has not finished an epoch yet, expected at least one.")
            except LabError as error:
                failures.append(error)
                continue
            # sweeps name their runs alike
            measures.add(measure_of(environment))
            histories[path.name if names.count(path.name) == 1 else str(path)] = history
        if histories:
            learning_curves(histories, self.output, " or ".join(sorted(measures, reverse=True)))
            say(Console(), f"Learning curves of {number_of(len(histories), 'run')}: {self.output}")
        if failure := failed_together(failures, len(self.runs)):
            raise failure


@dataclass(frozen=True)
class Demo:
    """Train an ARUN and an RNN+ReLU of equal size on permuted 8x8 digits, compare them, and draw a figure."""

    output: Path = Path("runs/demo")
    """Folder of the two runs and the figure. A finished run in this folder is shown and not trained again."""

    quiet: Quiet = False

    def run(self) -> None:
        """Run the demonstration."""
        from aru_lab.experiments.demo import demo

        demo(self.output)
