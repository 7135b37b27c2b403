"""The laboratory of aru_kernels: data, networks, training, analyses, figures and the command `aru`.

It consists of wings. A wing imports only from itself and from those above it in this list:

    errors, arguments, files, terminal    modules that every wing uses
    data          data sets, files of sequences, tasks
    networks      classifiers, encoder, perturbations
    runs          configuration, folder, training, evaluation, scores, files of analyses
    analysis      analyses as functions on arrays and networks
    plots         style, curves, figures of the paper
    experiments   sweeps, sensitivity, transfer, results of the paper and verdicts on its claims
    cli           the command `aru`

The packages import nothing heavy, so `aru --help` answers at once. Import from the modules, for example
`from aru_lab.runs.training import train`. `load` opens a trained network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from aru_lab.runs.prediction import TrainedNetwork

__all__ = ["load"]


def load(run: Path | str, checkpoint: str = "best", device: str | None = None) -> TrainedNetwork:
    """Load the trained network of a run, with the names of its classes and the preparation of its inputs.

    The run's data is not needed.

    Args:
        run: the run folder.
        checkpoint: "best" for the epoch with the best validation accuracy, "last" for the latest checkpoint.
        device: torch device; None takes the run's.

    Raises:
        RunError: the folder holds no run, or no such checkpoint, or a damaged one.
        ConfigError: the device can't be used.

    Examples:
        >>> import aru_lab
        >>> trained = aru_lab.load("runs/data-arun-seed0")  # doctest: +SKIP
        >>> trained.predict(x)["probabilities"].shape       # x: (N, T, I)  # doctest: +SKIP
        (20, 3)
    """
    from aru_lab.runs import prediction

    return prediction.load(run, checkpoint, device)
