"""Finds products whose operand in shared memory has a wrong address, in disassembled code for sm_90.

wgmma (HGMMA in SASS) takes a descriptor from uniform registers, one for a warp.  Triton computes it from the start of
shared memory and the warp's index.  With three TF32 products of 64 rows on 8 warps, the assembler of Triton 3.6 (ptxas
12.8.93) computed some of them from the index of the thread, which led to addresses out of range, and a fault.

The code is followed once from its beginning to its end.  Known are integers that depend only on the thread's index;
predicates, loads and floats are unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

# Where a program's shared memory begins, after the system's.
START = 1024
_WORD = 2**32 - 1


class Found(NamedTuple):
    """Descriptors of a kernel."""

    products: int
    unknown: int
    wrong: int  # differ between the threads of a warp, or point out of the kernel's shared memory


def _number_after(register: str, k: int) -> str:
    name, number = re.fullmatch(r"(U?R)(\d+)", register).groups()
    return f"{name}{int(number) + k}"


@dataclass
class _Threads:
    """The registers of all threads of a program; None or absent is unknown."""

    count: int
    registers: dict[str, np.ndarray | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = np.arange(self.count, dtype=np.int64)
        self.registers |= {"RZ": 0 * self.index, "URZ": 0 * self.index}

    def value(self, operand: str) -> np.ndarray | None:
        operand = operand.replace(".reuse", "")
        sign, name = re.fullmatch(r"([-~]?)(.*)", operand).groups()
        number = re.fullmatch(r"0x[0-9a-f]+|\d+", name)
        result = 0 * self.index + int(name, 0) if number else self.registers.get(name)
        if result is None:
            return None
        return ({"": 1, "-": -1, "~": -1}[sign] * result - (sign == "~")) & _WORD

    def result(self, kind: str, parts: list[str], operands: list[str]) -> np.ndarray | None:
        """The result of an instruction, from its operands without the first; None if addresses do not use it."""
        operands = [x for x in operands if not re.fullmatch(r"!?U?P[0-9T]", x)]
        if kind == "S2R" or kind == "S2UR":
            known = {"SR_TID.X": self.index, "SR_CgaCtaId": 0 * self.index, "SR_LANEID": self.index % 32}
            return known.get(operands[0])
        values = [self.value(x) for x in operands]
        if kind in ("LOP3", "ULOP3"):
            return self._logic(values[:3], int(operands[3], 0))
        if any(x is None for x in values):
            return None
        if kind in ("MOV", "UMOV", "R2UR"):
            return values[0]
        if kind in ("IADD3", "UIADD3", "VIADD"):
            return None if "X" in parts else sum(values[:3])
        if kind in ("IMAD", "UIMAD"):
            return None if {"X", "WIDE", "HI"} & set(parts) else values[0] * values[1] + values[2]
        if kind in ("SHF", "USHF") and "U64" not in parts:
            if "L" in parts:
                return values[0] << (values[1] & 31)
            signed = np.where(values[2] >> 31, values[2] - 2**32, values[2]) if "S32" in parts else values[2]
            return signed >> (values[1] & 31)
        if kind in ("SGXT", "USGXT"):
            bits = int(values[1][0])
            low = values[0] & (2**bits - 1)
            return low if "U32" in parts else np.where(low >> (bits - 1), low - 2**bits, low)
        if kind in ("LEA", "ULEA") and "X" not in parts:
            if "HI" not in parts:
                return (values[0] << values[2]) + values[1]
            return values[1] + ((values[2] << 32 | values[0]) >> (32 - values[3]) if len(values) == 4 else 0)
        if kind == "SHFL" and "IDX" in parts:
            return values[0][self.index // 32 * 32 + (values[1] & 31)]
        return None

    def _logic(self, values: list[np.ndarray | None], table: int) -> np.ndarray | None:
        if table == 0xC0 and any(x is not None and not x.any() for x in values[:2]):
            return 0 * self.index
        if any(x is None for x in values):
            return None
        a, b, c = values
        terms = [i for i in range(8) if table >> i & 1]
        return sum(((a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c) for i in terms), 0 * a)


def find(sass: str, warps: int, shared: int) -> Found:
    """Finds descriptors in the output of nvdisasm -c; warps, shared: a program's warps and bytes of shared memory."""
    threads = _Threads(32 * warps)
    products = unknown = wrong = 0
    for line in re.sub(r"/\*.*?\*/", "", sass).splitlines():
        match = re.fullmatch(r"\s*(@!?U?P\w+ )?([A-Z][\w.]*)\s+(.*?)\s*;\s*", line)
        if match is None:
            continue
        predicate, operation, rest = match.groups()
        kind, *parts = operation.split(".")
        operands = [x.strip() for x in rest.split(",")]
        if kind == "HGMMA":
            products += 1
            low = threads.registers.get(_number_after(re.search(r"gdesc\[(UR\d+)\]", rest)[1], 2))
            if low is None:
                unknown += 1
            else:
                byte = ((low & 0x3FFF) << 4) - START
                of_warps = byte.reshape(warps, 32)
                wrong += bool((of_warps != of_warps[:, :1]).any() or byte.min() < 0 or byte.max() >= shared)
        if kind == "SHFL":
            operands = operands[1:]
        written = operands[0].replace(".reuse", "")
        if not re.fullmatch(r"U?R\d+", written) or kind.startswith("ST"):
            continue
        result = None if predicate else threads.result(kind, parts, operands[1:])
        # registers that the instruction may write besides the first
        count = 2 if {"64", "WIDE"} & set(parts) or kind == "CS2R" else 4 if "128" in parts else 1
        if kind in ("HMMA", "LDSM"):
            count = 4
        if kind == "HGMMA":
            count = int(re.match(r"64x(\d+)x", parts[0])[1]) // 2
        for k in range(1, count):
            threads.registers[_number_after(written, k)] = 0 * threads.index if kind == "CS2R" else None
        if kind == "CS2R":
            result = 0 * threads.index
        threads.registers[written] = None if result is None else result & _WORD
    return Found(products, unknown, wrong)
