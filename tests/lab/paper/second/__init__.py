"""A second implementation of the quantities behind the claims that do not hold, beside the project's own.

Everything is written from the equations and the protocols again: numpy in float64, plain loops, and torch.autograd only
for gradients. No module here imports `aru_kernels` or `aru_lab`; the tests beside compare them with the project's
analyses.
"""
