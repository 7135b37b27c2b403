"""The console command `aru`; its commands are in commands.py."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import Any

import tyro

from aru_lab.commands import COMMANDS
from aru_lab.errors import ConfigError, LabError


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
        # Of the processes that torchrun started, all meet the same error, and the first one tells it.
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or os.environ.get("RANK") == "0":
            print(f"aru: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(
            "aru: Stopped at once; a run under way continues from its last checkpoint with `aru train --resume RUN`.",
            file=sys.stderr,
        )
        return 130
    return 0


def _parse(arguments: list[str]) -> Any:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
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
    command = " ".join(["aru", *arguments[:1]]) if arguments[0] in COMMANDS else "aru"
    return f"{wrong.rstrip('.')}; `{command} --help` lists what is expected."
