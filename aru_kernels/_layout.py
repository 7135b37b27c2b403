"""From the layouts that torch.nn.RNN accepts to one, and back: padded, batch first, unbatched or packed sequences."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from aru_kernels import _checks as check

# One time step range in which the same number of sequences is running: first row of the flat data, T, B.
Segment = tuple[int, int, int]
# run(xp (T, B, H), state) -> per-step results, each (T, B, H), and the next state
Run = Callable[[Tensor, tuple[Tensor, ...]], tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]


@dataclass(frozen=True)
class Layout:
    """How the rows of flat data (rows, features) map to time and batch.

    Rows are ordered by time, then sequence; where sequences differ in length they are sorted, longest first.
    """

    T: int
    B: int
    batch_first: bool = False
    batched: bool = True
    packed: PackedSequence | None = None

    @property
    def segments(self) -> list[Segment]:
        """Runs of steps with equal batch size: a padded input has one."""
        if self.packed is None:
            return [(0, self.T, self.B)]
        segments, row = [], 0
        for size, steps in itertools.groupby(self.packed.batch_sizes.tolist()):
            length = len(list(steps))
            segments.append((row, length, size))
            row += length * size
        return segments

    def flat_drive(self, drive: object, like: Tensor, hidden_size: int) -> Tensor | float | None:
        """The external drive as something that adds to flat data (rows, H).

        drive: None, a number, (T,) for one value per step, or a tensor that broadcasts to the input's layout with H
        features: (T, B, H), (B, T, H) if batch_first, (T, H) if unbatched.
        """
        if drive is None:
            return None
        if not isinstance(drive, Tensor):
            return check.number_beside_tensor("drive", drive)
        check.tensor("drive", drive)
        if drive.device != like.device:
            raise ValueError(f"drive is on {drive.device}, expected {like.device}, the device of input.")
        drive = drive.to(like.dtype)
        if drive.ndim == 0:
            return drive
        full = (self.T, self.B, hidden_size)
        letters = "(T, B, H)"
        if drive.ndim == 1:
            fits, drive_t = drive.shape[0] == self.T, drive[:, None, None]
        elif not self.batched:
            letters, fits = "(T, H)", drive.ndim == 2
            drive_t = drive[:, None] if fits else drive
        else:
            letters, fits = "(B, T, H)" if self.batch_first else letters, drive.ndim == 3
            drive_t = drive.transpose(0, 1) if fits and self.batch_first else drive
        if not fits or any(d not in (1, f) for d, f in zip(drive_t.shape, full, strict=True)):
            shown = {"(T, B, H)": full, "(B, T, H)": (self.B, self.T, hidden_size), "(T, H)": (self.T, hidden_size)}
            raise ValueError(
                f"drive has shape {tuple(drive.shape)}, expected a number, (T,) = ({self.T},) or a shape that "
                f"broadcasts to {letters} = {shown[letters]}."
            )
        drive = drive_t.expand(self.T, self.B, drive_t.shape[2])
        if self.packed is None:
            return drive.reshape(self.T * self.B, drive.shape[2])
        if self.packed.sorted_indices is not None:
            drive = drive.index_select(1, self.packed.sorted_indices)
        sizes = self.packed.batch_sizes.to(drive.device)
        return drive[torch.arange(self.B, device=drive.device) < sizes[:, None]]

    def sort(self, state: Tensor) -> Tensor:
        """A state (layers, B, ...) in the order of the flat data."""
        if self.packed is None or self.packed.sorted_indices is None:
            return state
        return state.index_select(1, self.packed.sorted_indices)

    def restore_state(self, state: Tensor) -> Tensor:
        """A state (layers, B, ...) in the caller's order and rank."""
        if self.packed is not None and self.packed.unsorted_indices is not None:
            return state.index_select(1, self.packed.unsorted_indices)
        return state if self.batched else state.squeeze(1)

    def restore(self, flat: Tensor) -> Tensor | PackedSequence:
        """Flat data (rows, features) in the caller's layout."""
        if self.packed is not None:
            return self.packed._replace(data=flat)
        steps = flat.view(self.T, self.B, flat.shape[-1])
        if not self.batched:
            return steps.squeeze(1)
        return steps.transpose(0, 1) if self.batch_first else steps

    def scan(
        self, run: Run, xp: Tensor, state: tuple[Tensor, ...], reverse: bool
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """`run` over the flat projection (rows, H), carrying the state; each sequence ends where its data ends.

        Returns the per-step results as flat data, and the last state of every sequence.
        """
        pieces: list[tuple[Tensor, ...]] = []
        finished: list[tuple[Tensor, ...]] = []
        segments = self.segments
        current = tuple(x[:0] for x in state) if reverse else state
        for row, T, B in reversed(segments) if reverse else segments:
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
            rows = xp if len(segments) == 1 else xp[row : row + T * B]
            steps = rows.view(T, B, xp.shape[-1])
            results, current = run(steps.flip(0) if reverse else steps, current)
            pieces.append(tuple((r.flip(0) if reverse else r).reshape(T * B, r.shape[-1]) for r in results))
        if reverse:
            pieces.reverse()
        finished.append(current)
        return _concatenate(pieces), _concatenate(finished[::-1])


def _concatenate(pieces: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return pieces[0] if len(pieces) == 1 else tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def flatten(input: Tensor | PackedSequence, batch_first: bool, input_size: int) -> tuple[Tensor, Layout]:
    """The input as flat data (rows, I), and its layout."""
    if isinstance(input, PackedSequence):
        data = check.tensor("input.data", input.data)
        check.rank("input.data", data, "(rows, I), of sequences (T, I)", 2)
        if data.shape[-1] != input_size:
            raise ValueError(f"input.data has {data.shape[-1]} features, expected input_size = {input_size}.")
        return data, Layout(len(input.batch_sizes), int(input.batch_sizes[0]), packed=input)
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
    return steps.reshape(T * B, input_size), Layout(T, B, batch_first, batched)
