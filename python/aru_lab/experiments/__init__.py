"""Work on many runs: sweeps, sensitivity, transfer, analyses, and the results of the paper."""
