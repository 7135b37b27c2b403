"""From arguments to a command: tyro parses, and what it refuses becomes one sentence.

tyro draws its errors as boxes. Before that it tells them to a hook with what came and what was expected; the hook is no
stable interface, so that nothing here depends on it except the wording of an error.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from aru_lab.arguments import suggestion
from aru_lab.cli.commands import COMMANDS
from aru_lab.errors import ConfigError

COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")
SHELLS = ("bash", "zsh", "tcsh", "fish")
ABOUT = (
    "The laboratory of aru_kernels. `aru COMMAND --help` lists the options of a command, and `aru --version` prints "
    "the versions."
)
_EXPECTED = {"INT": "a whole number", "FLOAT": "a number", "{None}": "None", "PATH": "a path", "STR": "a text"}


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments name, with its options.

    Args:
        arguments: those behind `aru`; at least one.

    Raises:
        ConfigError: the arguments don't fit; the sentence says which one, what came and what was expected.
        SystemExit: help or a completion was asked for, and has been printed.
    """
    name, *rest = arguments
    _check_completion(arguments)
    if name in COMMANDS:
        command = COMMANDS[name]
        _check_flags(command, name, rest)
        file = _config_of(rest) if hasattr(command, "from_config") else None
        default = tyro.MISSING_NONPROP if file is None else command.from_config(Path(file))
        return _parse(command, f"aru {name}", rest, default=default)
    if name in ("-h", "--help", *COMPLETION):
        return _parse(_any_command(), "aru", list(arguments), description=ABOUT)
    if name.startswith("-"):
        meant = suggestion(name, ("--help", "--version"))
        raise ConfigError(f"{name}: there is no such option before a command; `aru --help` lists the commands.{meant}")
    raise ConfigError(f"{name}: there is no such command; `aru --help` lists them.{suggestion(name, COMMANDS)}")


def _any_command() -> Any:
    """All commands for the help and the completion of `aru` itself, each with the first paragraph of its docstring."""
    described = []
    for name, command in COMMANDS.items():
        about = _reflowed(inspect.getdoc(command) or "").partition("\n\n")[0]
        described.append(typing.Annotated[command, tyro.conf.subcommand(name=name, description=about)])
    return Union[tuple(described)]  # noqa: UP007


def _check_completion(arguments: Sequence[str]) -> None:
    for k, argument in enumerate(arguments):
        if (option := argument.replace("_", "-")) in COMPLETION:
            shell = arguments[k + 1] if k + 1 < len(arguments) else None
            enough = len(arguments) > 2 or option == COMPLETION[0]
            if k or shell not in SHELLS or not enough:
                file = " FILE" if option == COMPLETION[1] else ""
                raise ConfigError(f"{option}: expected `aru {option} SHELL{file}` with one of {', '.join(SHELLS)}.")


def _check_flags(command: Any, name: str, arguments: Sequence[str]) -> None:
    # tyro would take the value for another argument
    flags = {option for option, is_flag in _options_of(command).items() if is_flag}
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if equals and (option := option.replace("_", "-")) in flags:
            raise ConfigError(
                f"{option}: got {value!r}, expected no value; `aru {name} --help` lists what is expected."
            )


def _config_of(arguments: Sequence[str]) -> str | None:
    """The value of the last --config."""
    found = None
    for k, option in enumerate(arguments):
        if option.startswith("--config="):
            found = option.partition("=")[2]
        elif option == "--config" and k + 1 < len(arguments) and not arguments[k + 1].startswith("--"):
            found = arguments[k + 1]
    return None if found == "None" else found


def _parse(command: Any, prog: str, arguments: list[str], **options: Any) -> Any:
    complaint = functools.partial(_complain, command=command, prog=prog, arguments=arguments)
    try:
        # what the hook does not tell would be drawn
        help_only = contextlib.nullcontext() if COMPLETION[0] in arguments else _wrapped()
        with _hook(complaint), contextlib.redirect_stderr(io.StringIO()), help_only:
            return tyro.cli(command, prog=prog, args=arguments, registry=_REGISTRY, **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(f"The arguments don't fit; `{prog} --help` lists what is expected.") from None


def _hook(complaint: Any) -> contextlib.AbstractContextManager[None]:
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        return contextlib.nullcontext()
    return on_parse_error(complaint)


def _complain(event: Any, command: Any, prog: str, arguments: list[str]) -> None:
    """Raise the sentence for an event of tyro; return if it is of an unknown kind."""
    kind, argument = type(event).__name__, getattr(event, "argument", None)
    wrong, meant = "", ""
    if kind == "UnrecognizedArgs":
        unknown = next((token for token in event.tokens if token.startswith("-")), event.tokens[0])
        if unknown.startswith("-"):
            option = unknown.partition("=")[0]
            wrong, meant = f"{option}: there is no such option", suggestion(option, _options_of(command))
        else:
            wrong = f"{unknown!r}: got a further argument, expected an option before it or nothing"
    elif kind == "MissingArgs":
        names = ", ".join(str(missing.arg.lowered.metavar) for missing in event.missing_arguments)
        wrong = f"{names}: got nothing, expected a value"
    elif argument is not None:
        name = argument.lowered.metavar if argument.is_positional() else argument.lowered.name_or_flags[-1]
        expected = _expected(str(argument.lowered.metavar))
        if kind == "InvalidChoice":
            expected = f"one of {', '.join(event.choices)}"
            wrong, meant = f"{name}: got {event.value!r}, expected {expected}", suggestion(event.value, event.choices)
        elif kind == "BadValue":
            wrong = f"{name}: got no value, expected {expected}"
        elif kind == "InstantiationFailure":
            came = _values_of(arguments, argument.lowered.name_or_flags) or event.message
            wrong = f"{name}: got {came}, expected {expected}"
    if wrong:
        raise ConfigError(f"{wrong}; `{prog} --help` lists what is expected.{meant}")


def _values_of(arguments: Sequence[str], names: Sequence[str]) -> str:
    """What stands behind the last of these options, for a message."""
    found: list[str] = []
    taking = False
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if argument.startswith("--"):
            if taking := option.replace("_", "-") in names:
                found = [value] if equals else []
        elif taking:
            found.append(argument)
    return textwrap.shorten(" ".join(map(repr, found)), 60, placeholder="...") if found else ""


def _expected(metavar: str) -> str:
    inside = re.fullmatch(r"\[(\w+) \[\1 \.\.\.\]\]", metavar)
    if inside:
        return {"INT": "whole numbers", "FLOAT": "numbers"}.get(inside[1], "values")
    known = [_EXPECTED.get(part, part) for part in reversed(metavar.split("|"))]
    return " or ".join(known)


def _options_of(command: Any) -> dict[str, bool]:
    """The spellings of a command's options, with two hyphens, and whether each is a flag, which takes no value."""
    options = {"--help": True, "--version": True}
    if not dataclasses.is_dataclass(command):
        return options
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        hint = hints[field.name]
        inner = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        if dataclasses.is_dataclass(inner):
            options |= _options_of(inner)
        elif tyro.conf.Positional not in getattr(hint, "__metadata__", ()):
            name = field.name.replace("_", "-")
            options |= {f"--{name}": inner is bool} | ({f"--no-{name}": True} if inner is bool else {})
    return options


_REGISTRY = ConstructorRegistry()


@_REGISTRY.struct_rule
def _dataclass_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Fields as tyro takes them itself, with the lines of a docstring joined to paragraphs.

    tyro keeps the line breaks of an indented docstring, and its help is ragged.
    """
    if not (dataclasses.is_dataclass(info.type) and info.type.__module__.startswith("aru_lab.")):
        return None
    hints = typing.get_type_hints(info.type, include_extras=True)
    given = info.default if isinstance(info.default, info.type) else None
    fields = []
    for field in dataclasses.fields(info.type):
        default = tyro.MISSING_NONPROP if field.default is dataclasses.MISSING else field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if given is not None:
            default = getattr(given, field.name)
        text = functools.partial(_docstring_of, info.type, field.name)
        fields.append(StructFieldSpec(name=field.name, type=hints[field.name], default=default, helptext=text))
    return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))


def _docstring_of(cls: type, name: str) -> str | None:
    return _docstrings(cls).get(name)


@functools.lru_cache
def _docstrings(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass."""
    try:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, SyntaxError):  # installed without its source
        return {}
    found = dict(_docstrings(cls.__mro__[1])) if cls.__mro__[1] is not object else {}
    for field, text in zip(tree.body, tree.body[1:], strict=False):
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if is_field and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = _reflowed(inspect.cleandoc(str(text.value.value)))
    return found


def _reflowed(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text))


class _Wrapping(io.StringIO):
    """Takes the help in the place of a stream; tyro asks that one whether it is a terminal, and for its encoding."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:
        """The stream's."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """The stream's."""
        return self._stream.isatty()


@contextlib.contextmanager
def _wrapped() -> Iterator[None]:
    """Break the lines outside tyro's boxes, which fit the terminal already, between words and behind commas."""
    text, width = _Wrapping(sys.stdout), shutil.get_terminal_size().columns
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        for line in text.getvalue().splitlines():
            print("\n".join(_lines_of(line, width)))


def _lines_of(line: str, width: int) -> list[str]:
    bare = _without_colours(line)
    if len(bare) <= width or bare[0] in "╭│╰+|":
        return [line]
    lines, indent = [""], "  " if bare.startswith("usage:") else ""
    for piece in re.findall(r"[^\s,]*,?\s*", line):
        if lines[-1].strip() and len(_without_colours(lines[-1] + piece.rstrip())) > width:
            lines[-1] = lines[-1].rstrip()
            lines.append(indent)
        lines[-1] += piece
    return lines


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
