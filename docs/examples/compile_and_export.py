"""torch.compile and torch.export.

`torch.export` captures a layer as one operator, so the program runs for every length and batch. It is saved,
loaded and run; the process that loads it needs `import aru_kernels`. `torch.compile` has the same results as the
eager layer.
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from aru_kernels import ARUN


class Regression(nn.Module):
    """One number for each sequence (B, T, I)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = ARUN(3, 32, batch_first=True)
        self.readout = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Of the last state of the layer: (B, 1)."""
        _output, (h_n, _g_n) = self.rnn(x)
        return self.readout(h_n[-1])


torch.manual_seed(0)
model = Regression().eval()
x = torch.randn(8, 100, 3)
expected = model(x)

# The back end "eager" captures the model and starts no C++ compiler; leave it out to have Inductor's code.
compiled = torch.compile(model, fullgraph=True, backend="eager")
print("torch.compile: largest difference", (compiled(x) - expected).abs().max().item())

program = torch.export.export(model, (x,), dynamic_shapes=({0: Dim("B"), 1: Dim("T")},))
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "model.pt2"
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
print("torch.export: largest difference", (loaded(x) - expected).abs().max().item())
print("at another length and batch:", tuple(loaded(torch.randn(2, 250, 3)).shape))
