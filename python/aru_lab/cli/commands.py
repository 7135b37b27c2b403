"""The commands of `aru` by name. A command is a dataclass: its fields are the options, and `run` does the work."""

from __future__ import annotations

from aru_lab.cli.analysis import Analyse, Figure
from aru_lab.cli.experiments import Reproduce, Robustness, Sweep, Transfer
from aru_lab.cli.listing import ListRuns
from aru_lab.cli.networks import Networks
from aru_lab.cli.runs import Curves, Demo, Evaluate, Predict, Train

COMMANDS = {
    "train": Train,
    "evaluate": Evaluate,
    "predict": Predict,
    "curves": Curves,
    "runs": ListRuns,
    "sweep": Sweep,
    "robustness": Robustness,
    "transfer": Transfer,
    "reproduce": Reproduce,
    "networks": Networks,
    "analyse": Analyse,
    "figure": Figure,
    "demo": Demo,
}
