"""The console command `aru`.

Only the standard library is imported at the top, so that an installation without the extra `lab` can say so.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys

from aru_lab.errors import ConfigError, Interrupted, LabError, MachineError, as_lab_error
from aru_lab.terminal import complain, output, quietly

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
        if "--version" in arguments:
            from aru_lab.runs.provenance import versions

            print(versions())
            return 0
        _require_extra()
        if "MPLBACKEND" in os.environ:  # figures are only written to files, and matplotlib refuses unknown names
            os.environ["MPLBACKEND"] = "agg"
        from aru_lab.cli.parsing import parse

        try:
            command = parse(arguments or ["--help"])
        except SystemExit:  # help or a completion has been printed
            return 0 if arguments else 2
        with quietly(getattr(command, "quiet", False)):
            command.run()
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
