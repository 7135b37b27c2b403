"""Data sets, files of sequences, and the tasks made of them. Nothing here imports torch."""
