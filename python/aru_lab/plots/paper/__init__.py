"""The figures of the paper, drawn from the files of `aru analyse`; figure 1 needs no files, and figure 2 reads scores.

Only the names of the figures are here, so that the command line can list them; draw.py draws a figure by its name.
"""

from __future__ import annotations

OF_THE_PAPER = ("1", "2", "3", "4", "5", "6", "appendix")
FIGURES = (*OF_THE_PAPER, "states", "psychometric", "trajectories", "fixed-points")
