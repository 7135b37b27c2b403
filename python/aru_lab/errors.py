"""Errors for the user: every message is one sentence that says what to do."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence


class LabError(Exception):
    """Base class of the laboratory's errors; the command line prints the message without a traceback."""

    exit_code = 2


class ConfigError(LabError):
    """An argument is out of its range, or arguments contradict each other."""


class DataError(LabError):
    """Data is missing, damaged or can't be downloaded."""


class RunError(LabError):
    """A run folder can't be used: it holds no run, already holds one, or is damaged."""


class MachineError(LabError):
    """The machine failed: its memory or disk is too small, or a process was killed."""


class NonFiniteError(LabError):
    """Training met a loss, gradient or weight that is not finite."""

    exit_code = 1


class Interrupted(LabError):
    """Training was stopped by Ctrl-C or a termination signal, after saving a checkpoint."""

    exit_code = 130


# Messages of torch's allocators; only the GPU allocator raises an exception type of its own.
_NO_MEMORY = re.compile(r"can't allocate memory|out of memory|Storage size calculation overflowed|alloc_cpu", re.I)


def as_lab_error(error: Exception) -> LabError | None:
    """Turn an error of the machine, such as a full disk, into a sentence; return None for a fault of the program.

    Args:
        error: any exception.
    """
    if isinstance(error, LabError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(text)):
        return MachineError(
            "There is not enough memory for this network and these sequences; choose a smaller --hidden-size, "
            "--controller-size or --batch-size, or a larger --accumulate."
        )
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename is not None else ""
        return MachineError(f"{place}{error.strerror or text or type(error).__name__}; mend that and try again.")
    return None


def typed(path: str | os.PathLike[str]) -> str:
    """A path as an argument of a command that a message shows: in quotes where the shell needs them.

    Examples:
        >>> typed("my runs/first"), typed("runs/first")
        ("'my runs/first'", 'runs/first')
    """
    text = os.fspath(path)
    if os.name != "nt":
        return shlex.quote(text)
    return f'"{text}"' if " " in text else text


def number_of(n: int, noun: str) -> str:
    """A number and its noun, which gets an s unless the number is 1.

    Examples:
        >>> number_of(1, "epoch"), number_of(1200, "sequence")
        ('1 epoch', '1,200 sequences')
    """
    return f"{n:,} {noun}{'s' * (n != 1)}"


def failed_together(failures: Sequence[LabError], n: int | None = None) -> LabError | None:
    """Combine the errors of several runs into one; return None if no run failed.

    The combined error has the highest exit code of all. If there is only one run, its own error is returned.

    Args:
        failures: errors of the runs that failed.
        n: number of all runs; None leaves it out of the message.
    """
    if not failures:
        return None
    if n == 1:
        return failures[0]
    worst = max(failures, key=lambda error: error.exit_code)
    share = f"{len(failures)} of {n} runs failed" if n is not None else f"{len(failures)} failed and were left out"
    return type(worst)(f"{share}; the first: {failures[0]}")
