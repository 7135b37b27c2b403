"""Printing: names from the user appear unchanged in any encoding, and a reader may stop reading.

Only the standard library is imported at the top, so that the command line can use it before rich is known to be there.
"""

from __future__ import annotations

import codecs
import contextlib
import contextvars
import errno
import io
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Control characters move the cursor or change colours, surrogates stand for bytes that are not text, and the others
# break lines or change the direction of writing.
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
_TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_SPELLED = {
    "α": "alpha",
    "γ": "gamma",
    "λ": "lambda",
    "μ": "mu",
    "ξ": "xi",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "±": "+-",
    "°": " degrees",
    "²": "^2",
    "·": "*",
    "→": "->",
    "…": "...",
    "–": "-",
    "—": "-",
    "≤": "<=",
    "≥": ">=",
    "∂": "d",
}
_HANDLER = "aru_lab.spell"

# A name of a file may have 255 characters; what is longer is a value that went wrong.
_LONG_WORD = re.compile(r"\S{600,}")
_SHOWN = 100  # characters at each end of a long word


def visible(text: str) -> str:
    """`text` on one line, with control characters written as escapes.

    Examples:
        >>> visible("a[/b] \\x1b[31m")
        'a[/b] \\\\x1b[31m'
    """
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char) in _HIDDEN or char in _TURNING else char
        for char in text
    )


def plain(text: object, style: str = "") -> Text:
    """`text` for rich without markup; rich interprets plain strings as markup."""
    from rich.text import Text

    return Text(visible(str(text)), style)


def say(console: Console, *parts: object) -> None:
    """Print one line, in full length; strings are shown as they are, and a `Text` keeps its style."""
    from rich.text import Text

    line = Text()
    for part in parts:
        line.append_text(part if isinstance(part, Text) else plain(part))
    console.print(line, soft_wrap=True, highlight=False)


_quiet = contextvars.ContextVar("quiet", default=False)


@contextlib.contextmanager
def quietly(quiet: bool = True) -> Iterator[None]:
    """Within it consoles of `progress_console` print nothing, unless `quiet` is False."""
    token = _quiet.set(quiet)
    try:
        yield
    finally:
        _quiet.reset(token)


def progress_console(stderr: bool = False) -> Console:
    """Where progress is printed, on standard output or standard error; results and errors do not belong there."""
    from rich.console import Console

    return Console(stderr=stderr, quiet=_quiet.get())


def complain(error: object) -> None:
    """Print the sentence of an error to standard error; the middle of very long words is left out."""
    sentence = _LONG_WORD.sub(lambda word: f"{word[0][:_SHOWN]}…{word[0][-_SHOWN:]}", visible(str(error)))
    print(f"aru: {sentence}", file=sys.stderr)


class _Forgiving(io.FileIO):
    """Output that accepts everything. It keeps the first failure and drops all output after it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.failure: OSError | None = None

    def write(self, data: Any) -> int | None:
        if self.failure is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failure = error
        return len(memoryview(data).cast("B"))


class Output:
    """The process's standard output and standard error within `output()`."""

    def __init__(self) -> None:
        self._raw: list[_Forgiving] = []

    def prepare(self, name: str) -> None:
        """Put a forgiving stream in the place of sys.stdout or sys.stderr, or mend the errors of a replaced one."""
        stream = getattr(sys, name)
        if stream is None:  # the process was started with it closed
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = _Forgiving(stream.fileno())
            self._raw.append(raw)
            new = io.TextIOWrapper(
                io.BufferedWriter(raw),
                stream.encoding,
                _HANDLER,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, new)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)

    @property
    def failure(self) -> OSError | None:
        """The reason why output was lost; None if nothing was lost or its reader had closed it."""
        failures = [raw.failure for raw in self._raw if raw.failure is not None]
        return next((error for error in failures if error.errno != errno.EPIPE), None)


@contextlib.contextmanager
def output() -> Iterator[Output]:
    """Make output succeed with every encoding and every reader.

    Characters outside the encoding are spelled out or escaped. After a reader has closed its end (`| head -1`), further
    output is dropped and the work continues.
    """
    for descriptor in (0, 1, 2):
        # A closed one would be given to the next file that is opened, and then get what is printed.
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    codecs.register_error(_HANDLER, _spell)
    names = ("stdout", "stderr")
    before = {name: (getattr(sys, name), getattr(getattr(sys, name), "errors", None)) for name in names}
    prepared = Output()
    try:
        for name in names:
            prepared.prepare(name)
        yield prepared
    finally:
        for name, (stream, errors) in before.items():
            if getattr(sys, name) is not stream:
                getattr(sys, name).flush()
                setattr(sys, name, stream)
            elif hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=errors)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end
