"""From the layouts that torch.nn.RNN accepts to one, and back: padded, batch first, unbatched or packed sequences.

A layer computes on rows: (T, B, features) of a padded input, (rows, features) of a packed one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from aru_kernels import _checks as check
from aru_kernels._compile import not_compiled

# One time step range in which the same number of sequences is running: first row of the flat data, T, B.
Segment = tuple[int, int, int]
State = tuple[Tensor, ...]
# run(xp (T, B, H), state, reverse) -> per-step results, each (T, B, H), and the next state
Run = Callable[[Tensor, State], tuple[State, State]]


@dataclass(frozen=True)
class Padded:
    """T steps of B sequences, rows (T, B, features)."""

    T: int
    B: int
    batch_first: bool = False
    batched: bool = True

    def drive(self, drive: object, like: Tensor, hidden_size: int) -> Tensor | float | None:
        """The external drive as something that adds to rows (T, B, H).

        drive: None, a number, (T,) for one value per step, or a tensor that broadcasts to the input's layout with H
        features: (T, B, H), (B, T, H) if batch_first, (T, H) if unbatched.
        """
        if drive is None:
            return None
        if not isinstance(drive, Tensor):
            return check.number_beside_tensor("drive", drive, like.dtype)
        check.tensor("drive", drive)
        if drive.device != like.device:
            raise ValueError(f"drive is on {drive.device}, expected {like.device}, the device of input.")
        check.memory("drive", drive)
        drive = drive.to(like.dtype)
        if drive.ndim == 0:
            return drive
        full = (self.T, self.B, hidden_size)
        letters = "(T, B, H)"
        if drive.ndim == 1:
            fits, rows = drive.shape[0] == self.T, drive[:, None, None]
        elif not self.batched:
            letters, fits = "(T, H)", drive.ndim == 2
            rows = drive[:, None] if fits else drive
        else:
            letters, fits = "(B, T, H)" if self.batch_first else letters, drive.ndim == 3
            rows = drive.transpose(0, 1) if fits and self.batch_first else drive
        # a size is compared with the full one first: a captured graph must not depend on whether that is 1
        if not fits or any(d not in (f, 1) for d, f in zip(rows.shape, full, strict=True)):
            shown = {"(T, B, H)": full, "(B, T, H)": (self.B, self.T, hidden_size), "(T, H)": (self.T, hidden_size)}
            raise ValueError(
                f"drive has shape {tuple(drive.shape)}, expected a number, (T,) = ({self.T},) or a shape that "
                f"broadcasts to {letters} = {shown[letters]}."
            )
        return rows

    def sort(self, state: Tensor) -> Tensor:
        """A state (layers, B, ...) in the order of the rows."""
        return state

    def scan(self, run: Run, xp: Tensor, state: State, reverse: bool) -> tuple[State, State]:
        """`run` over the rows of the projection (T, B, H), carrying the state: results of every step, last state."""
        if not reverse:
            return run(xp, state)
        results, state = run(xp.flip(0), state)
        return tuple(x.flip(0) for x in results), state

    def output(self, rows: Tensor) -> Tensor:
        """Rows that nothing else refers to in the caller's layout, as a tensor that is no view.

        Views cannot be detached in place.  torch.nn.LSTM transposes its output in place, too.
        """
        if self.batched and not self.batch_first:
            return rows
        if not _is_eager(rows):
            return rows.transpose(0, 1) if self.batched else rows.squeeze(1)
        change = (lambda: rows.transpose_(0, 1)) if self.batched else (lambda: rows.squeeze_(1))
        if not rows.requires_grad:
            return change()
        # the backward pass of `rows` may need its values, which do not change here: later changes must still be noticed
        with torch.autograd._unsafe_preserve_version_counter(rows):
            return change()

    def last(self, states: list[Tensor]) -> Tensor:
        """The last states (B, ...) of all layers as one tensor of the caller's rank, which is no view."""
        return torch.stack(states if self.batched else [state.squeeze(0) for state in states])


@dataclass(frozen=True)
class Packed:
    """Sequences of different lengths, sorted: rows (rows, features), ordered by time, then sequence."""

    T: int
    B: int
    input: PackedSequence
    # ranges of steps with equal batch size
    segments: tuple[Segment, ...]
    batched: bool = True

    def drive(self, drive: object, like: Tensor, hidden_size: int) -> Tensor | float | None:
        """The external drive as something that adds to rows (rows, H); see `Padded.drive`."""
        drive = Padded(self.T, self.B).drive(drive, like, hidden_size)
        if not isinstance(drive, Tensor) or drive.ndim == 0:
            return drive
        drive = drive.expand(self.T, self.B, drive.shape[2])
        if self.input.sorted_indices is not None:
            drive = drive.index_select(1, self.input.sorted_indices)
        sizes = self.input.batch_sizes.to(drive.device)
        return drive[torch.arange(self.B, device=drive.device) < sizes[:, None]]

    def sort(self, state: Tensor) -> Tensor:
        """A state (layers, B, ...) in the order of the rows."""
        indices = self.input.sorted_indices
        return state if indices is None else state.index_select(1, indices)

    def scan(self, run: Run, xp: Tensor, state: State, reverse: bool) -> tuple[State, State]:
        """As `Padded.scan`, of rows (rows, H); each sequence ends where its data ends."""
        pieces: list[State] = []
        finished: list[State] = []
        current = tuple(x[:0] for x in state) if reverse else state
        for row, T, B in reversed(self.segments) if reverse else self.segments:
            if reverse:
                # sequences that end in this segment start here
                current = tuple(
                    torch.cat([c, x[c.shape[0] : B]]) if c.shape[0] < B else c
                    for c, x in zip(current, state, strict=True)
                )
            elif current[0].shape[0] > B:
                finished.append(tuple(x[B:] for x in current))
                current = tuple(x[:B] for x in current)
            # a slice of everything would cost a zero-filled copy in the backward pass
            rows = xp if len(self.segments) == 1 else xp[row : row + T * B]
            results, current = Padded(T, B).scan(run, rows.view(T, B, xp.shape[-1]), current, reverse)
            pieces.append(tuple(x.reshape(T * B, x.shape[-1]) for x in results))
        if reverse:
            pieces.reverse()
        finished.append(current)
        return _concatenate(pieces), _concatenate(finished[::-1])

    def output(self, rows: Tensor) -> PackedSequence:
        """Rows that nothing else refers to in the caller's layout, as a tensor that is no view."""
        return _with_data(self.input, rows.clone() if len(self.segments) == 1 else rows)

    def last(self, states: list[Tensor]) -> Tensor:
        """The last states (B, ...) of all layers as one tensor in the caller's order, which is no view."""
        state, indices = torch.stack(states), self.input.unsorted_indices
        return state if indices is None else state.index_select(1, indices)


Layout = Padded | Packed


@not_compiled  # torch.compile makes an empty tuple of it
def _with_data(input: PackedSequence, data: Tensor) -> PackedSequence:
    return input._replace(data=data)


def _concatenate(pieces: list[State]) -> State:
    return pieces[0] if len(pieces) == 1 else tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def _is_eager(value: Tensor) -> bool:
    """Whether operations on `value` run now: nothing compiles, records, maps over or wraps it."""
    return not (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or type(value) is not Tensor
    )


def arrange(input: Tensor | PackedSequence, batch_first: bool, input_size: int) -> tuple[Tensor, Layout]:
    """The input's rows and how they are laid out."""
    if isinstance(input, PackedSequence):
        return _arrange_packed(input, input_size)
    check.tensor("input", input)
    letters = "(B, T, I)" if batch_first else "(T, B, I)"
    check.rank("input", input, f"{letters}, or (T, I) without a batch", 2, 3)
    if input.shape[-1] != input_size:
        raise ValueError(
            f"input has shape {tuple(input.shape)}: {input.shape[-1]} features, expected input_size = {input_size}."
        )
    batched = input.ndim == 3
    steps = input if batched else input.unsqueeze(1)
    if batched and batch_first:
        steps = steps.transpose(0, 1)
    check.not_empty("input", input, 1 if batched and batch_first else 0, "time step")
    T, B, _ = steps.shape
    return steps.contiguous(), Padded(T, B, batch_first, batched)


def _arrange_packed(input: PackedSequence, input_size: int) -> tuple[Tensor, Packed]:
    data = check.tensor("input.data", input.data)
    check.rank("input.data", data, "(rows, I), of sequences (T, I)", 2)
    if data.shape[-1] != input_size:
        raise ValueError(f"input.data has {data.shape[-1]} features, expected input_size = {input_size}.")
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        raise RuntimeError(
            "input is a PackedSequence, whose lengths a captured graph would fix, expected a tensor in torch.jit.trace "
            "and torch.export."
        )
    segments = _segments(input)
    return data, Packed(sum(T for _, T, _ in segments), segments[0][2], input, segments)


@not_compiled
def _segments(input: PackedSequence) -> tuple[Segment, ...]:
    """Ranges of steps with equal batch size, of a sequence whose fields fit each other."""
    rows, sizes = input.data.shape[0], input.batch_sizes
    if not isinstance(sizes, Tensor):
        raise TypeError(f"batch_sizes must be a torch.Tensor, got {type(sizes).__name__}.")
    check.memory("batch_sizes", sizes)
    for name, actual, expected in (
        ("dtype", sizes.dtype, torch.int64),
        ("device", sizes.device.type, "cpu"),
        ("ndim", sizes.ndim, 1),
    ):
        if actual != expected:
            raise ValueError(f"batch_sizes has {name} {actual}, expected {expected}.")
    segments, row, step, most = [], 0, 0, None
    for size, steps in itertools.groupby(sizes.tolist()):
        if size < 1:
            raise ValueError(f"batch_sizes has {size} at step {step}, expected sizes of at least 1.")
        if most is not None and size > most:
            raise ValueError(f"batch_sizes grows from {most} to {size} at step {step}, expected sizes that never grow.")
        length = len(list(steps))
        segments.append((row, length, size))
        row, step, most = row + length * size, step + length, size
    if not segments:
        raise ValueError("batch_sizes has shape (0,): no time step, expected at least one.")
    if row != rows:
        raise ValueError(f"batch_sizes has the sum {row}, expected {rows}, the number of rows of input.data.")
    _check_order(input, segments[0][2])
    return tuple(segments)


def _check_order(input: PackedSequence, B: int) -> None:
    """Checks that sorted_indices and unsorted_indices are inverse permutations of B sequences."""
    device = input.data.device
    names = ("sorted_indices", "unsorted_indices")
    given = [(name, indices) for name in names if (indices := getattr(input, name)) is not None]
    if not given:
        return
    if len(given) == 1:
        (other,) = set(names) - {given[0][0]}
        raise ValueError(f"{other} is None, expected the inverse of {given[0][0]}.")
    for name, indices in given:
        if not isinstance(indices, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(indices).__name__}.")
        if indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} has dtype {indices.dtype}, expected torch.int64.")
        if indices.device != device:
            raise ValueError(f"{name} is on {indices.device}, expected {device}, the device of input.data.")
        if tuple(indices.shape) != (B,):
            raise ValueError(f"{name} has shape {tuple(indices.shape)}, expected (B,) = ({B},).")
        check.memory(name, indices)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return  # values cannot be read
    order = torch.arange(B, device=device)
    for name, indices in given:
        if not torch.equal(indices.long().sort().values, order):
            raise ValueError(f"{name} is not a permutation of 0, ..., B - 1 = {B - 1}.")
    (_, sorting), (_, back) = given
    if not torch.equal(sorting.index_select(0, back).long(), order):
        raise ValueError("unsorted_indices is not the inverse of sorted_indices.")
