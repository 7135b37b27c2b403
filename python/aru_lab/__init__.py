"""The laboratory of aru_kernels: data, tasks, models, training, perturbations, figures and the command `aru`.

Nothing heavy is imported here, so that `aru --help` answers at once; import what you need from its own module, for
example `from aru_lab.runs.training import train`.
"""
