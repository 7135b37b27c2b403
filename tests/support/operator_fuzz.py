"""Calls one operator with one wrong argument at a time, in a process of its own; `test_operator_fuzz.py` starts it.

    python -m support.operator_fuzz BACKEND OPERATION {forward,backward}

prints a line of JSON per call: argument, what is wrong with it, whether that is legal, and what happened.
"""

from __future__ import annotations

import faulthandler
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from aru_kernels import ops
from aru_kernels.triton._mode import INTERPRETED
from benchmarks import problems
from support.interpreted import patch_once

T, B, H, G = 3, 2, 5, 4
VALUES = {"n_floor": 1e-3, "precision": "highest", "segment": 1, "trace": False, "keep": True}
NUMBERS = {
    "n_floor": (math.nan, math.inf, -math.inf, 0.0, -1e-3),
    "precision": ("lowest", "", "HIGHEST", "highest "),
    "segment": (-1, T + 1, 2**40, -(2**62)),
}


def forward_arguments(op: str) -> dict[str, Any]:
    """Legal arguments of the forward operator, by name."""
    torch.manual_seed(0)
    operation = ops.OPERATIONS[op]
    tensors = {
        "gamma": lambda: [torch.randn(3, H), torch.randn(H), torch.randn(3, 1)],
        "controller_step": lambda: problems.step(B, H, G),
        "aru_sequence": lambda: problems.adaptive(T, B, H, G),
        "gamma_rnn_sequence": lambda: [*problems.static(T, B, H)[:-1], torch.rand(1)],
        "leaky_aru_sequence": lambda: [*problems.adaptive(T, B, H, G), torch.rand(H)],
        "leaky_gamma_rnn_sequence": lambda: [*problems.static(T, B, H), torch.rand(H)],
    }[op]()
    named = dict(zip(operation.Inputs._fields, tensors, strict=True))
    return named | {name: VALUES[name] for name in operation.Options._fields}


def backward_arguments(backend: str, op: str, segment: int) -> dict[str, Any]:
    """Legal arguments of the backward operator, by name."""
    operation = ops.OPERATIONS[op]
    given = forward_arguments(op)
    if "segment" in given:
        given["segment"] = segment
    results = ops.operator(backend, op)(*given.values())
    results = (results,) if isinstance(results, Tensor) else results
    inputs = operation.Inputs(*(given[name] for name in operation.Inputs._fields))
    saved = operation.save(inputs, results)
    upstream = {f"d_{name}": torch.randn_like(x) for name, x in zip(operation.Outputs._fields, results, strict=False)}
    if segment > 1:  # n and s were not results
        upstream = {name: x if x.numel() else None for name, x in upstream.items()}
    return upstream | saved._asdict() | {name: given[name] for name in operation.Options._fields}


def is_legal(op: str, name: str, shape: tuple[int, ...], given: dict[str, Any]) -> bool:
    """Whether a tensor argument may have this shape beside the others."""
    if shape == tuple(given[name].shape):
        return True
    if op == "gamma":
        x = tuple(given["x"].shape) if name != "x" else shape
        others = {k: tuple(v.shape) for k, v in given.items() if isinstance(v, Tensor)} | {name: shape}
        try:
            broadcast = all(torch.broadcast_shapes(x, others[k]) == x for k in ("n", "s"))
        except RuntimeError:
            return False
        return broadcast and others.get("d_y", x) == x
    if op.endswith("gamma_rnn_sequence") and name in ("n", "s"):
        return shape in ((), (1,), (H,))
    if name == "xp":  # any number of steps
        return len(shape) == 3 and shape[0] > 0 and shape[1:] == (B, H)
    # beside checkpoints n and s may be absent
    return name in ("n", "s") and given.get("segment", 1) > 1 and shape in ((0,), (T, B, H))


def without_memory(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


def with_half_its_memory(x: Tensor) -> Tensor:
    x = x.clone()
    x.untyped_storage().resize_(x.nbytes // 2)
    return x


def strided(x: Tensor) -> Tensor:
    return torch.stack((x, torch.full_like(x, math.nan)), -1)[..., 0]


def mutations(x: Tensor) -> Iterator[tuple[str, Callable[[], Any], bool | None]]:
    """(what, how, whether it is legal; None: by the shape)"""
    yield "flat", lambda: x.reshape(-1), None
    yield "one dimension more", lambda: x[None], None
    yield "one dimension less", lambda: x.sum(0) if x.ndim else x[None, None], None
    for d, size in enumerate(x.shape):
        for other in {0, 1, max(0, size - 1), size + 1, 2 * size, 50} - {size}:
            sizes = (*x.shape[:d], other, *x.shape[d + 1 :])
            yield f"size {other} in dimension {d}", lambda sizes=sizes: torch.randn(sizes), None
    for dtype in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.complex64, torch.bool):
        yield str(dtype), lambda dtype=dtype: x.to(dtype), False
    yield "on meta", lambda: x.to("meta"), False
    yield "sparse", lambda: x.to_sparse(), False
    if x.numel():
        yield "without memory", lambda: without_memory(x), False
        yield "with half its memory", lambda: with_half_its_memory(x), False
        yield "zeros without memory", lambda: torch._efficientzerotensor(tuple(x.shape), dtype=x.dtype), True
    yield "a list", lambda: x.tolist(), False
    yield "negated in memory", lambda: torch._neg_view(-x), True
    yield "strided", lambda: strided(x), True
    if x.ndim > 1:
        yield "transposed in memory", lambda: x.mT.contiguous().mT, True


def main(backend: str, op: str, direction: str) -> None:
    faulthandler.enable()
    backward = direction == "backward"
    segments = (1, 2) if backward and op.endswith("aru_sequence") else (1,)
    for segment in segments:
        given = backward_arguments(backend, op, segment) if backward else forward_arguments(op)
        name_of = f"{backend}_{op}" + "_backward" * backward
        operator = getattr(torch.ops.aru_kernels, name_of).default
        expected = operator(*given.values())
        expected = (expected,) if isinstance(expected, Tensor) else expected

        def report(
            name: str, what: str, value: Any, legal: bool, operator=operator, given=given, expected=expected
        ) -> None:
            print(json.dumps({"argument": name, "what": what, "legal": legal}), end=" ", flush=True)
            try:
                results = operator(*(given | {name: value}).values())
            except Exception as error:
                outcome = {"error": type(error).__name__, "text": str(error).split("\n", 1)[0]}
            else:
                results = (results,) if isinstance(results, Tensor) else results
                outcome = {"same": all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))}
            print(json.dumps(outcome), flush=True)

        for name, value in given.items():
            if isinstance(value, Tensor):
                for what, make, legal in mutations(value):
                    mutated = make()
                    if legal is None:
                        legal = is_legal(op, name, tuple(mutated.shape), given)
                    report(name, what, mutated, legal)
            if isinstance(value, Tensor) or value is None:
                report(name, "None", None, name.startswith("d_") and op != "gamma")
            if name in NUMBERS:
                for number in (*NUMBERS[name], *([0] if name == "segment" and backward else [])):
                    report(name, repr(number), number, False)
        if "precision" in given and "kept" in given and backend == "cpu":
            # bfloat16 products keep another amount of state, where the processor has them
            report("precision", "another than forward", "medium", not torch.cpu._is_avx512_bf16_supported())


if __name__ == "__main__":
    if INTERPRETED:
        patch_once()
    main(*sys.argv[1:])
