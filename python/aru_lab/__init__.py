"""The laboratory of aru_kernels: data, networks, training, analyses, figures and the command `aru`.

It consists of wings. A wing imports only from itself and from those above it in this list:

    errors, arguments, files, terminal    modules that every wing uses
    data          data sets, files of sequences, tasks
    networks      classifiers, encoder, perturbations
    runs          configuration, folder, training, evaluation, scores, files of analyses
    analysis      analyses as functions on arrays and networks
    plots         style, curves, figures of the paper
    experiments   sweeps, sensitivity, transfer, results of the paper and verdicts on its claims
    cli           the command `aru`

The packages import nothing heavy, so `aru --help` answers at once. Import from the modules, for example
`from aru_lab.runs.training import train`.
"""
