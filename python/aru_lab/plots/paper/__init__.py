"""The figures of the paper, by its numbers; draw.py draws a figure by its name.

They are drawn from what `aru reproduce paper` has measured, or, as far as they rest on analysed runs, from the files of
`aru analyse` and `aru robustness`. Only the names are here, so that the command line can list them.
"""

from __future__ import annotations

# The paper's text has no figures 7 and 8.
OF_THE_PAPER = ("1", "2", "3", "4", "5", "6", *(str(number) for number in range(9, 19)))
# No analysis of a run holds what these show, or they show several tasks.
WITHOUT_RUNS = ("12", "13", "14", "15", "16", "17")
OTHERS = ("states", "psychometric", "trajectories", "fixed-points")  # not figures of the paper
FIGURES = (*(number for number in OF_THE_PAPER if number not in WITHOUT_RUNS), *OTHERS)
