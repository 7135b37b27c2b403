"""Predictions of a trained network for new sequences, which are prepared as its training examples were."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aru_kernels import ARUN, GammaRNN
from aru_lab.arguments import check_whole
from aru_lab.data.preparation import check_missing
from aru_lab.data.sequences import Sequences, checked_part, padding, read_sequences
from aru_lab.data.targets import Target
from aru_lab.data.transform import Transform
from aru_lab.errors import ConfigError, DataError
from aru_lab.networks.classifier import SequenceClassifier, driven_rnn
from aru_lab.runs.config import TrainConfig
from aru_lab.runs.evaluation import load_network, read_out, to_tensors
from aru_lab.runs.folder import write_result
from aru_lab.runs.runtime import run_on


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network with the preparation of its inputs; `aru_lab.load` makes it.

    Attributes:
        network: the trained network, in evaluation mode; `network.recurrent` is its recurrent layer.
        target: what it predicts; `target.names` are the names of the classes.
        transform: what is done to the inputs before the network reads them.
        config: the configuration of the run.
    """

    network: SequenceClassifier
    target: Target
    transform: Transform
    config: TrainConfig

    @property
    def input_size(self) -> int:
        """I of the sequences that `predict` takes."""
        size = self.network.trial_shape[1]
        return size // 2 if self.transform.missing == "mask-channel" else size

    def prepare(self, x: np.ndarray, lengths: np.ndarray | None = None) -> Sequences:
        """The sequences as the network takes them; their targets are 0.

        Args:
            x: sequences (N, T, I) as in the file on which the network was trained, of any T.
            lengths: steps of each sequence, integers of shape (N,); None: all have T.

        Raises:
            DataError: a shape or type does not fit, or x holds NaN and the run does not say what becomes of it.
        """
        given = {"x": np.asarray(x)} | ({} if lengths is None else {"lengths": np.asarray(lengths)})
        part = checked_part(given, "", "input")
        if part.x.shape[2] != self.input_size:
            raise DataError(
                f"x: got the shape {part.x.shape}, expected (N, T, {self.input_size}) as in the run's data."
            )
        check_missing(part, self.transform.missing, "input: x")
        averaged, lengths = self.transform.averaged(part.x, part.lengths)
        n, n_steps, _ = averaged.shape
        mask = np.ones((n, n_steps), bool) if self.target.every_step else None
        y = np.zeros((n, n_steps) if self.target.every_step else n, np.int64)
        return Sequences(self.transform.completed(averaged, lengths), y, lengths, mask)

    def predict(
        self, x: np.ndarray, lengths: np.ndarray | None = None, states: bool = False, batch_size: int = 250
    ) -> dict[str, np.ndarray]:
        """Predict the targets of sequences.

        Args:
            x, lengths: as in `prepare`.
            states: whether to give what the neurons did, too.
            batch_size: sequences at once.

        Returns:
            Arrays by name. Of classes: "classes" (N,), their names; "probabilities" (N, K); "names" (K,). Of numbers:
            "numbers" (N, O), in the units of the targets. With `states`: "h" (N, T, H), the states; of an ARUN or a
            GammaRNN also "a", the pre-activations, and "n" and "s", gain and saturation, of the same shape. T is that
            of the averaged steps, and padding is NaN. With a target at every step, shapes have T behind N; at padding
            there is no class ("") and NaN.

        Raises:
            ConfigError: states are asked of a network behind an encoder, or a batch size is below 1.
            DataError: as in `prepare`.
        """
        check_whole("batch_size", batch_size, 1)
        if states and self.network.encoder is not None:
            raise ConfigError("states: got True for a network with a convolutional encoder, expected one without.")
        sequences = self.prepare(x, lengths)
        parameter = next(self.network.parameters())
        outputs: list[Tensor] = []
        traces: dict[str, list[Tensor]] = {}
        with torch.no_grad(), run_on(self.config.backend, self.network, self.config.matmul_precision):
            for start in range(0, len(sequences), batch_size):
                index = slice(start, start + batch_size)
                inputs, _ = to_tensors(sequences, index, parameter.device, parameter.dtype)
                outputs.append(self.network(inputs, **read_out(sequences, index)).cpu())
                for name, values in (_states(self.network, inputs) if states else {}).items():
                    traces.setdefault(name, []).append(values.transpose(0, 1).cpu())
        found = self._answers(torch.cat(outputs).double())
        at_steps = [name for name in found if name != "names"] if self.target.every_step else []
        found |= {name: torch.cat(values).numpy() for name, values in traces.items()}
        if sequences.lengths is not None:
            for name in (*at_steps, *traces):
                nothing = "" if name == "classes" else np.nan
                found[name][padding(sequences.lengths, found[name].shape[1])] = nothing
        return found

    def _answers(self, outputs: Tensor) -> dict[str, np.ndarray]:
        if self.target.names is None:
            numbers = outputs.numpy()
            return {"numbers": numbers if self.transform.targets is None else self.transform.targets.undo(numbers)}
        names = np.array(self.target.names)
        return {
            "classes": names[outputs.argmax(dim=-1).numpy()],
            "probabilities": outputs.softmax(dim=-1).numpy(),
            "names": names,
        }


def _states(network: SequenceClassifier, x: Tensor) -> dict[str, Tensor]:
    """What the neurons of a network without an encoder did, each (T, B, H), for inputs (B, T, I)."""
    x = x.transpose(0, 1)
    if not isinstance(network.recurrent, (ARUN, GammaRNN)):
        return {"h": driven_rnn(network.recurrent, x, None)}
    h, *_, trace = network.recurrent(x, return_trace=True)
    return {"h": h, "a": trace.a, "n": trace.n.expand_as(h), "s": trace.s.expand_as(h)}


def load(run: Path | str, checkpoint: str = "best", device: str | None = None) -> TrainedNetwork:
    """Load the trained network of a run, with what it needs to predict; the run's data is not read.

    Args:
        run: the run folder.
        checkpoint: "best" for the epoch with the best validation accuracy, "last" for the latest checkpoint.
        device: where to put the network; None takes the run's.

    Raises:
        RunError: the folder holds no run, or no such checkpoint, or a damaged one.
        DataError: the run is of an earlier version, which did not keep this, and its data can't be read.
        ConfigError: the device can't be used.
    """
    return TrainedNetwork(*load_network(Path(run), checkpoint, device))


def predict_file(
    run: Path, file: Path, output: Path, states: bool = False, batch_size: int = 250, **options: Any
) -> dict[str, np.ndarray]:
    """Predict the targets of the sequences x (and lengths) in a file, and write them to an .npz file.

    Args:
        run: the run folder.
        file: file of sequences; y is not needed.
        output: file to write, numpy.savez.
        states, batch_size: as in `TrainedNetwork.predict`.
        options: checkpoint and device, as in `load`.

    Returns:
        What was written, see `TrainedNetwork.predict`.

    Raises:
        RunError, DataError, ConfigError: with a sentence that says what to do.
    """
    if output.suffix != ".npz":
        raise ConfigError(f"output: got {output}, expected a name that ends in .npz.")
    trained = load(run, **options)
    part = read_sequences(file, with_targets=False).whole
    if part.x.shape[2] != trained.input_size:
        raise DataError(
            f"{file}: x has the shape {part.x.shape}, expected (N, T, {trained.input_size}), as in the data of {run}."
        )
    check_missing(part, trained.transform.missing, f"{file}: x")
    found = trained.predict(part.x, part.lengths, states, batch_size)
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    write_result(buffer.getvalue(), output)
    return found
