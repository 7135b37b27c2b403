"""What the command line refuses, what it suggests, and its help."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import aru_kernels
from aru_lab.cli import main, parsing
from aru_lab.cli.commands import COMMANDS
from aru_lab.networks.names import MODELS


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("trian", "trian: there is no such command; `aru --help` lists them. Did you mean train?"),
        ("--hlep", "--hlep: there is no such option before a command; `aru --help` lists the commands. Did you mean"),
        (
            "train --hiden-size 3",
            "--hiden-size: there is no such option; `aru train --help` lists what is expected. Did",
        ),
        ("train --hiden-size=3", "expected. Did you mean --hidden-size?"),
        ("train --no-shufle", "Did you mean --no-shuffle?"),
        ("sweep --sedes 0", "Did you mean --seeds?"),
        ("analyse x --exponent 3", "Did you mean --exponents?"),
        ("train --model arn", f"model: got 'arn', expected one of {', '.join(MODELS)}. Did you mean arun?"),
        ("reproduce tabel1", "Did you mean table1?"),
        ("networks --scale smal", "Did you mean small?"),
        ("train --epochs", "--epochs: got no value, expected a whole number; `aru train --help` lists what is"),
        (
            "train --epochs=many",
            "--epochs: got 'many', expected a whole number; `aru train --help` lists what is expect",
        ),
        ("train --clip much", "--clip: got 'much', expected a number or None; "),
        ("train --early_stop soon", "--early-stop: got 'soon', expected a whole number or None; "),
        ("sweep --seeds 0 one", "--seeds: got '0' 'one', expected whole numbers; "),
        ("train sdigits smnist", "'smnist': got a further argument, expected an option before it or nothing; "),
        ("train --shuffle=no", "--shuffle: got 'no', expected no value; `aru train --help` lists what is"),
        ("predict", "RUN, FILE: got nothing, expected a value; `aru predict --help` lists what is expected."),
        ("--tyro-print-completion fish2", "with one of bash, zsh, tcsh, fish."),
        ("--tyro-write-completion bash", "expected `aru --tyro-write-completion SHELL FILE`"),
        ("train --tyro-print-completion bash", "expected `aru --tyro-print-completion SHELL`"),
    ],
)
def test_a_sentence_says_what_came_what_was_expected_and_what_may_be_meant(
    arguments: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("aru: ")
    assert sentence in err
    assert err.count("\n") == 1


def test_without_the_hook_a_wrong_option_still_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """tyro promises none."""
    monkeypatch.setitem(sys.modules, "tyro._errors", None)
    monkeypatch.setattr(parsing, "_complain", lambda *_, **__: None)
    assert main(["train", "--colour"]) == 2
    assert capsys.readouterr().err == "aru: The arguments don't fit; `aru train --help` lists what is expected.\n"


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_version_in_every_command(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"] if command is None else [command, "--version"]) == 0
    versions = f"aru {aru_kernels.__version__}, torch {metadata.version('torch')}\n"
    assert capsys.readouterr().out == versions


def test_without_arguments_the_help_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    alone = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert capsys.readouterr().out == alone
    assert all(f"• {name}" in alone for name in COMMANDS)


@pytest.mark.parametrize("command", [None, *COMMANDS])
@pytest.mark.parametrize("columns", [80, 120])
def test_lines_of_the_help_are_full(
    command: str | None, columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line of a paragraph ends only where the next word would not fit."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main([*([command] if command else []), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    inside = [line[2:-2].rstrip() for line in lines if line.startswith("│")]
    width = columns - 4
    for line, following in itertools.pairwise(inside):
        indent = len(line) - len(line.lstrip())
        is_text = indent >= 6 and len(following) - len(following.lstrip()) == indent
        if is_text and following.strip()[0] not in "•-":
            assert len(line) + 1 + len(re.split(r"[ ,]", following.strip())[0]) > width, (line, following)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_in_bash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tyro-print-completion", "bash"]) == 0
    script = tmp_path / "completion.sh"
    script.write_text(capsys.readouterr().out)
    assert main(["--tyro-write-completion", "bash", str(tmp_path / "written.sh")]) == 0
    assert (tmp_path / "written.sh").read_text().strip() == script.read_text().strip()

    def completed(*words: str) -> set[str]:
        asked = f'. {script}; COMP_WORDS=({" ".join(words)} ""); COMP_CWORD={len(words)}'
        if words[-1].startswith("-") or words[-1] == "tr":
            asked = f". {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}"
        asked += '; _tyro_aru; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=60, check=True)
        return set(done.stdout.split())

    assert completed("aru") >= set(COMMANDS)
    assert completed("aru", "tr") == {"train", "transfer"}
    assert completed("aru", "train", "--hidden") == {"--hidden-size"}
    assert completed("aru", "runs", "--") >= {"--json", "--check"}
