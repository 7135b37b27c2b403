"""What is printed: names as they are, in any encoding, for readers that stop reading."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from aru_lab.cli import main
from aru_lab.cli.entry import EXTRA
from aru_lab.plots.style import as_label
from aru_lab.terminal import complain, plain, say, visible

from .conftest import with_sources

SMALL = ["--model", "relu", "--hidden-size", "6", "--epochs", "1", "--subset", "60", "--validation-subset", "30"]
SMALL += ["--pixels-per-step", "8", "--device", "cpu", "--threads", "1"]
NAMES = ["a[/b]", "x [red] y", "[bold]z", ":smile:", "\x1b[31mred", "two\nlines", "$x$ $\\frac$", "_hidden", "n" * 200]


def aru(*arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    """The command in a process of its own."""
    environment = with_sources() | options.pop("env", {})
    command = [sys.executable, "-m", "aru_lab", *arguments]
    return subprocess.run(command, env=environment, timeout=240, **{"capture_output": True, **options})


def python(script: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=with_sources(), capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run."""
    folder = tmp_path_factory.mktemp("terminal") / "run"
    assert main(["train", "sdigits", *SMALL, "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_name_of_a_folder_is_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = visible(name)
    assert main(["train", "sdigits", *SMALL, "--output", name]) == 0
    assert f"Run folder: {shown}\n" in capsys.readouterr().out
    assert main(["evaluate", name]) == 0
    assert f"{shown}: 359 test sequences\n" in capsys.readouterr().out
    assert main(["curves", name]) == 0
    options = [*SMALL[2:], "--models", "relu", "--seeds", "0", "--no-match-parameters", "--output", f"{name}.d"]
    assert main(["sweep", "sdigits", *options]) == 0
    assert f"Table: {shown}.d/sweep.csv\n" in capsys.readouterr().out
    assert main(["train", "--resume", f"{name}.no"]) == 2
    err = capsys.readouterr().err
    assert f"{shown}.no holds no run" in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_visible_escapes_what_a_terminal_would_obey() -> None:
    assert visible("a\x1b[0m\r\n\x9b\u2028\u202e\udcff") == "a\\x1b[0m\\r\\n\\x9b\\u2028\\u202e\\udcff"
    assert visible("naïve ξ [b] :smile: 名 👩‍🚀 \\n") == "naïve ξ [b] :smile: 名 👩‍🚀 \\n"


def test_what_is_printed_is_no_markup_whatever_the_console() -> None:
    written = io.StringIO()
    console = Console(file=written, width=60, markup=True, emoji=True)
    say(console, "[red]a[/red] ", plain(":smile:", "bold"), f" {'long ' * 20}")
    table = Table("run")
    table.add_row(plain("[bold]b"))
    console.print(table)
    assert written.getvalue().splitlines()[0] == f"[red]a[/red] :smile: {'long ' * 20}"
    assert "[bold]b" in written.getvalue()


def test_label_of_a_figure_is_no_formula() -> None:
    assert as_label("a $x$") == r"a \$x\$"
    assert as_label("_a_b") == " _a_b"  # matplotlib leaves a label out of the legend that begins with the line
    assert as_label(f"{'a' * 40}{'b' * 40}") == f"{'a' * 28}…{'b' * 28}"


@pytest.mark.parametrize(
    ("encoding", "deviation", "name"),
    [
        ("ascii", "Deviations sigma_xi", "n\\xf6 xi"),
        ("latin-1", "Deviations sigma_xi", "nö xi"),
        ("utf-8", "σ_ξ", "nö ξ"),
    ],
)
def test_every_encoding_can_be_printed_to(
    run: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, deviation: str, name: str
) -> None:
    streams = {stream: io.TextIOWrapper(io.BytesIO(), encoding) for stream in ("stdout", "stderr")}
    for stream, wrapper in streams.items():
        monkeypatch.setattr(sys, stream, wrapper)

    def printed(stream: str) -> str:
        streams[stream].flush()
        return streams[stream].buffer.getvalue().decode(encoding)

    assert main(["robustness", "--help"]) == 0
    assert deviation in " ".join(printed("stdout").split())
    assert main(["evaluate", str(run)]) == 0
    assert " clean " in printed("stdout")
    assert main(["evaluate", "nö ξ"]) == 2
    assert printed("stderr").startswith(f"aru: {name} holds no run")
    assert streams["stdout"].errors == "strict"  # as before


def test_names_that_are_no_text_are_printed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.fsencode(tmp_path) + b"/\xff\xfe"
    try:
        os.symlink(run, name)
    except OSError:
        pytest.skip("this file system holds no such names")
    done = aru("evaluate", os.fsdecode(name), env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\udcff\\udcfe: 359 test sequences" in done.stdout
    assert main(["curves", os.fsdecode(name), "--output", str(tmp_path / "c.png")]) == 0
    assert capsys.readouterr().err == ""


def test_reader_that_closes_early_ends_nothing(run: Path, tmp_path: Path) -> None:
    """The work goes on, and what nobody reads is dropped."""
    arguments = ["train", "sdigits", *SMALL, "--epochs", "3", "--output", str(tmp_path / "run")]
    reading, writing = os.pipe()
    os.close(reading)
    done = aru(*arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "run" / "metrics.jsonl").read_text().count("\n") == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_output_to_a_full_disk_is_told(run: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = aru("evaluate", str(run), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"aru: The output can't be written (No space left on device); make room for it.\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX shell")
def test_closed_streams_do_not_get_into_files(tmp_path: Path) -> None:
    """Without care the next file that is opened gets the number of a closed stream, and then what is printed."""
    options = " ".join(SMALL)
    command = f'"{sys.executable}" -m aru_lab train sdigits {options} --output "{tmp_path}/run" <&- >&- 2>&-'
    done = subprocess.run(command, shell=True, env=with_sources(), timeout=240, check=False)
    assert done.returncode == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0


def test_wrong_backend_of_matplotlib_does_not_matter(run: Path, tmp_path: Path) -> None:
    done = aru("curves", str(run), "--output", str(tmp_path / "c.png"), env={"MPLBACKEND": "nonsense"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("missing", [*EXTRA, "all"])
def test_installation_without_the_extra_says_how_to_mend_it(missing: str) -> None:
    hidden = EXTRA if missing == "all" else (missing,)
    script = f"import sys\nfor name in {hidden!r}:\n    sys.modules[name] = None\n"
    script += "from aru_lab.cli import main\nassert main(['--version']) == 0\nsys.exit(main(['train', '--help']))"
    done = subprocess.run(
        [sys.executable, "-c", script], env=with_sources(), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2, done.stderr
    needs = f"aru: The laboratory needs {', '.join(hidden)}, which {'are' if missing == 'all' else 'is'} not installed"
    assert done.stderr == f'{needs}; install it with `pip install "aru_kernels[lab]"`.\n'


def test_command_line_imports_nothing_of_the_extra_before_it_looks() -> None:
    script = f"import sys, aru_lab.cli\nprint([name for name in {EXTRA!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=with_sources(), capture_output=True, text=True, timeout=240
    )
    assert done.stdout == "[]\n", done.stderr


def test_a_very_long_value_is_not_repeated_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    complain(f"--seed: got {'9' * 5000!r}, expected a whole number.")
    told = capsys.readouterr().err
    assert len(told) < 300
    assert told.startswith("aru: --seed: got '999")
    assert told.endswith("999', expected a whole number.\n")
    complain(path := "a/" * 250)
    assert path in capsys.readouterr().err
