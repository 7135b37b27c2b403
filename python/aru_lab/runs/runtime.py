"""Names of devices, types and backends turned into the things themselves."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

import aru_kernels
from aru_kernels._memory import wanted_budget
from aru_lab.errors import ConfigError
from aru_lab.networks.classifier import SequenceClassifier


def resolve_device(name: str) -> torch.device:
    """The torch device called `name`; "auto" is a GPU if available, otherwise the CPU.

    Raises:
        ConfigError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device: got {name!r}, which this torch {torch.__version__} can't use here; expected auto, cpu, or a "
            "GPU that is present."
        ) from error
    return device


def resolve_dtype(name: str) -> torch.dtype:
    """The torch type called `name`, such as float32."""
    return getattr(torch, name)


def set_threads(n: int) -> None:
    """Let torch compute on n CPU threads.

    Raises:
        ConfigError: the machine does not permit so many; the library under torch would end the process.
    """
    if n > (os.cpu_count() or 1):
        done = threading.Event()
        started: list[threading.Thread] = []
        try:
            for _ in range(n):
                started.append(threading.Thread(target=done.wait, daemon=True))
                started[-1].start()
        except RuntimeError as error:
            raise ConfigError(
                f"threads: got {n}, and this machine permits no more than {len(started) - 1}; expected fewer, such as "
                f"the number of its cores, {os.cpu_count()}."
            ) from error
        finally:
            done.set()
            for thread in started:
                if thread.ident is not None:
                    thread.join()
    torch.set_num_threads(n)


@contextmanager
def run_on(backend: str, model: SequenceClassifier, matmul_precision: str = "highest") -> Iterator[None]:
    """Run everything inside on one backend of aru_kernels, after the model has taken one step on it for trial.

    Args:
        backend: "auto" or the name of a backend.
        model: the classifier.
        matmul_precision: for torch.set_float32_matmul_precision, while inside.

    Raises:
        ConfigError: the backend can't serve here, or ARU_STATE_BUDGET is not a size; aru_kernels says why.
    """
    try:
        wanted_budget()  # the trial keeps no state, so that it would not ask
    except ValueError as error:
        raise ConfigError(str(error)) from error
    parameter = next(model.parameters())
    with ExitStack() as stack:
        stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision(matmul_precision)
        try:
            if backend != "auto":  # "auto" leaves the choice to ARU_KERNELS_BACKEND too
                stack.enter_context(aru_kernels.use_backend(backend))
            was_training = model.training
            model.eval()  # so that batch normalisation learns nothing from the trial
            with torch.no_grad():
                model(parameter.new_zeros(1, *model.trial_shape))
            model.train(was_training)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(f"backend: {error}") from error
        yield
