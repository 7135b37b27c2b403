"""Failures that are told to the person at the terminal: every message is one sentence that says what to do."""

from __future__ import annotations


class LabError(Exception):
    """Base of the laboratory's own failures; the command line prints the message and no traceback."""

    exit_code = 2


class ConfigError(LabError):
    """An argument is out of its range, or arguments contradict each other."""


class DataError(LabError):
    """Data is missing, damaged or can't be downloaded."""


class RunError(LabError):
    """A run folder can't be used as asked: it holds no run, holds one already, or is damaged."""


class NonFiniteError(LabError):
    """Training met a loss, gradient or weight that is not finite."""

    exit_code = 1


class Interrupted(LabError):
    """Training was stopped by Ctrl-C or a termination signal, after saving a checkpoint."""

    exit_code = 130
