"""Data sets, files of sequences, and tasks. No module of this wing imports torch."""
