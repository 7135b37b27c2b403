"""Figures: one style, curves of runs, and the figures of the paper."""
