"""Runs programs in forks of a process that has imported torch, because the import takes seconds.

    python -m support.forked

reads a request a line, as JSON, from the standard input: `run`'s arguments.  It prints the exit status of each.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import types
from pathlib import Path


def run(arguments: list[str], environment: dict[str, str], timeout: int, output: str, errors: str) -> None:
    """Turns this process into `python ARGUMENTS`, where they begin with -c or -m; output, errors: files to write."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, output, os.O_WRONLY | os.O_CREAT),
        (2, errors, os.O_WRONLY | os.O_CREAT),
    ):
        os.dup2(os.open(path, flags), descriptor)
    os.environ.update(environment)
    signal.alarm(timeout)
    option, program, *rest = arguments
    if option == "-m":
        sys.argv = [program, *rest]
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [option, *rest]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(program, "<string>", "exec"), vars(module))


def serve() -> None:
    """Answers requests until the standard input ends."""
    import torch  # noqa: F401

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(**json.loads(line))
            break
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


class Server:
    """A process that serves, with this environment."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.forked"],
            env=environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, arguments: tuple[str, ...], environment: dict[str, str], timeout: int, folder: Path
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python ARGUMENTS`; folder: takes the output."""
        files = [folder / name for name in ("stdout", "stderr")]
        for file in files:
            file.write_text("")
        request = {"arguments": arguments, "environment": environment, "timeout": timeout}
        request |= {"output": str(files[0]), "errors": str(files[1])}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        status = int(self._process.stdout.readline())
        return subprocess.CompletedProcess(arguments, status, *(file.read_text() for file in files))

    def stop(self) -> None:
        """Ends the process."""
        self._process.communicate()  # closes both pipes


if __name__ == "__main__":
    serve()
