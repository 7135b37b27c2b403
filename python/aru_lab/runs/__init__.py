"""Runs: configuration, folder and files, training, evaluation, and the files of analyses."""
