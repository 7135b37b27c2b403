"""Every operator with every argument wrong in turn: a sentence, never a crash, silent only where that is legal."""

from __future__ import annotations

import json
import re

import pytest

from aru_kernels import ops
from support.helpers import needs_cpu_kernels

SLOWEST = ("aru_sequence", "backward")  # a minute in the interpreter
CASES = [
    pytest.param(backend, op, direction, id=f"{backend}-{op}-{direction}")
    for backend, op in ops._OPERATORS
    for direction in ("forward", "backward")
    # the checks are the same code for all backends: `cuda` needs a GPU, and the interpreter of `triton` is slow
    if backend == "cpu" or (backend == "triton" and not op.startswith("leaky") and (op, direction) != SLOWEST)
]
# Where two arguments disagree and no third says which of them is wrong, either may be named.
OTHERS = {("gamma", "x"): ("d_y",), ("gamma_rnn_sequence", "xp"): ("h0",)}
OTHERS |= {("aru_sequence", "h"): ("xp",), ("gamma_rnn_sequence", "h"): ("h0", "xp")}
OTHERS |= {(f"leaky_{op}", argument): names for (op, argument), names in OTHERS.items() if op != "gamma"}


@needs_cpu_kernels
@pytest.mark.slow
@pytest.mark.parametrize(("backend", "op", "direction"), CASES)
def test_one_wrong_argument_at_a_time(run_forked, backend, op, direction):
    interpreted = {"TRITON_INTERPRET": "1"} if backend == "triton" else {}
    done = run_forked("-m", "support.operator_fuzz", backend, op, direction, timeout=280, **interpreted)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"the process ended with {done.returncode} at {lines[-1:]}:\n{done.stderr[-3000:]}"
    assert len(lines) > 50
    decoder, wrong = json.JSONDecoder(), []
    for line in lines:
        call, end = decoder.raw_decode(line)
        outcome = json.loads(line[end:])
        if call["legal"]:
            right = (
                outcome.get("same", False)
                if "in memory" in call["what"] or call["what"] == "strided"
                else ("error" not in outcome)
            )
        else:
            by_torch = call["what"] in ("sparse", "a list")  # the dispatcher refuses these
            names = (call["argument"], *OTHERS.get((op, call["argument"]), ()))
            named = re.search(rf"\b({'|'.join(names)})\b", outcome.get("text", ""))
            right = named is not None or (by_torch and "error" in outcome)
        if not right:
            wrong.append((call, outcome))
    assert not wrong, "\n".join(map(str, wrong[:20]))
