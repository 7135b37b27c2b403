"""Results as data: one line of JSON a figure, appended to a file, never changed."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Record:
    """One variant of one case.

    op, mode, shape, dtype, precision: the case; variant: a backend's name or a peer's; same_function: whether the
    peer computes what ours computes; best, p20, p50, p80: seconds of a call; ratio: its best time over ours;
    gflops, gbps, fraction: rate of useful work, and its share of `limit` (GFLOP/s or GB/s) measured in the same run;
    limit_of: what that limit is a rate of, "multiply-adds", "matrix product" or "copy"; extra: figures of this case
    only, such as seconds of compilation.
    """

    op: str
    mode: str
    variant: str
    shape: dict[str, int]
    dtype: str
    precision: str
    same_function: bool
    best: float
    p20: float
    p50: float
    p80: float
    rounds: int
    ratio: float
    us_per_step: float | None
    gflops: float | None
    gbps: float | None
    fraction: float | None
    limit: float | None
    machine: dict[str, object]
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    extra: dict[str, object] = field(default_factory=dict)
    limit_of: str | None = None

    def __post_init__(self) -> None:
        if self.limit_of is None and self.limit is not None:  # records of the time when there were two limits
            object.__setattr__(self, "limit_of", "matrix product" if self.gflops else "copy")

    @property
    def case(self) -> tuple[str, str, str, str, str]:
        """What two commits are compared by."""
        sizes = " ".join(f"{name}={size}" for name, size in self.shape.items())
        return self.op, self.mode, sizes, self.dtype, self.precision

    @property
    def commit(self) -> str:
        """The commit that was measured, "-dirty" after uncommitted changes."""
        return str(self.machine["commit"])


def slug(device_name: str) -> str:
    """A device's name as part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")


def default_file(device_name: str) -> Path:
    """Where results of this device go."""
    return FOLDER / f"{slug(device_name)}.jsonl"


def append(path: Path, records: list[Record]) -> None:
    """Adds lines; one write, so that a killed run leaves whole lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(dataclasses.asdict(record)) + "\n" for record in records)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def load(paths: list[Path]) -> list[Record]:
    """All records of the files, in their order.

    Raises ValueError, naming file and line, where a line is no record.
    """
    names = {f.name for f in dataclasses.fields(Record)}
    required = names - {"limit_of"}
    records = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                values = json.loads(line)
                if not required <= set(values) <= names:
                    raise ValueError(f"its keys are {sorted(values)}")
                records.append(Record(**values))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{path}, line {number} is no benchmark record: {error}.") from None
    return records


def latest(records: list[Record]) -> list[Record]:
    """The last record of every case, variant and device."""
    last = {(r.case, r.variant, r.machine["device"], r.machine["threads"]): r for r in records}
    return list(last.values())
