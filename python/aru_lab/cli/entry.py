"""The console command `aru`.

Only the standard library is imported at the top, so that an installation without the extra `lab` can say so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import sys
from typing import Any

from aru_lab.errors import ConfigError, Interrupted, LabError, MachineError, as_lab_error
from aru_lab.terminal import complain, output

# What the extra `lab` installs, by the names under which it is imported.
EXTRA = ("scipy", "sklearn", "matplotlib", "rich", "tyro", "pooch", "safetensors", "filelock")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; None takes that of the process.

    Returns:
        The exit code: 0 done, 1 training met a number that is not finite, 2 the user has something to mend, 130 stopped
        by a signal.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with output() as printed:
        code = _run(arguments)
        with contextlib.suppress(ValueError, OSError):
            sys.stdout.flush()
        if printed.failure is not None:
            complain(MachineError(f"The output can't be written ({printed.failure.strerror}); make room for it."))
            code = code or MachineError.exit_code
    return code


def _run(arguments: list[str]) -> int:
    try:
        if arguments == ["--version"]:
            from aru_lab.runs.provenance import version

            print(f"aru {version()}")
            return 0
        _require_extra()
        if "MPLBACKEND" in os.environ:  # figures are only written to files, and matplotlib refuses unknown names
            os.environ["MPLBACKEND"] = "agg"
        _parse(arguments or ["--help"]).run()
    except KeyboardInterrupt:
        return _tell(
            Interrupted(
                "Stopped at once; a run under way continues from its last checkpoint with `aru train --resume RUN`."
            )
        )
    except Exception as error:
        known = _missing_extra(error) or as_lab_error(error)
        if known is None:
            raise
        return _tell(known)
    return 0


def _tell(error: LabError) -> int:
    # Of the processes that torchrun started, all meet the same error, and the first one tells it.
    if os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0":
        complain(error)
    return error.exit_code


def _require_extra() -> None:
    if missing := [name for name in EXTRA if importlib.util.find_spec(name) is None]:
        raise _without(missing)


def _missing_extra(error: Exception) -> ConfigError | None:
    name = str(error.name or "").partition(".")[0] if isinstance(error, ImportError) else ""
    return _without([name]) if name in EXTRA else None


def _without(missing: list[str]) -> ConfigError:
    return ConfigError(
        f"The laboratory needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
        'install it with `pip install "aru_kernels[lab]"`.'
    )


def _parse(arguments: list[str]) -> Any:
    import tyro

    from aru_lab.cli.commands import COMMANDS

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
        raise ConfigError(_as_sentence(complaint.getvalue(), arguments, COMMANDS)) from None


def _as_sentence(box: str, arguments: list[str], commands: dict[str, Any]) -> str:
    # tyro draws a box with its title in the upper edge; what was wrong stands above the first rule. Edges and rules are
    # drawn with + | - where standard output takes only ASCII.
    inside = " ".join(line.strip(" |│╭╮╰╯+") for line in box.splitlines()[1:])
    wrong = next((part.strip() for part in re.split("[─-]{3,}", inside) if part.strip()), "the arguments don't fit")
    command = " ".join(["aru", *arguments[:1]]) if arguments[0] in commands else "aru"
    return f"{wrong.rstrip('.')}; `{command} --help` lists what is expected."
