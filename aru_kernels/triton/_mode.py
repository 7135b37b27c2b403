"""Whether this process runs Triton's kernels in its interpreter, on the CPU; one mode per process."""

from __future__ import annotations

import os

# As Triton reads it, when it is imported.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
