"""`python -m aru_lab` is the console command `aru`."""

from __future__ import annotations

import sys

from aru_lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
