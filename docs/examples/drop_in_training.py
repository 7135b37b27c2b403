"""A training loop in which ARUN replaces torch.nn.LSTM.

The task is to remember which of two inputs was larger on average. Two lines differ from the loop of an LSTM: the
one that makes the layer, and the one that gives the optimizer learning rates by fan-in.
"""

import torch
from torch import nn

from aru_kernels import ARUN, parameter_groups


class Classifier(nn.Module):
    """Two classes from the layer's last state."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.rnn = ARUN(input_size, hidden_size)  # was nn.LSTM(input_size, hidden_size)
        self.readout = nn.Linear(hidden_size, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B, 2) of a batch (T, B, I)."""
        _output, (h_n, _g_n) = self.rnn(x)
        return self.readout(h_n[-1])


def batch(T: int = 50, B: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy inputs (T, B, 2) whose means differ, and the index of the larger mean (B,)."""
    larger = torch.randint(2, (B,))
    x = torch.randn(T, B, 2) + 0.2 * nn.functional.one_hot(larger, 2)
    return x, larger


torch.manual_seed(0)
torch.set_num_threads(1)  # the network is small
model = Classifier(2, 32)
optimizer = torch.optim.Adam(parameter_groups(model, lr=1e-2))  # was model.parameters(), lr=1e-2
for update in range(60):
    x, y = batch()
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if update % 20 == 19:
        print(f"update {update + 1}: loss {loss.item():.3f}")

with torch.no_grad():
    x, y = batch(B=500)
    print(f"accuracy {(model(x).argmax(-1) == y).float().mean().item():.1%}")
