"""A cell of your own with AdaptiveGamma.

A leaky recurrent cell whose neurons adapt their activation. `AdaptiveGamma` takes the pre-activation and the
controller's state, and returns the activation and the next state, so it fits any recurrence.
"""

import torch
from torch import nn

from aru_kernels import AdaptiveGamma, parameter_groups


class LeakyCell(nn.Module):
    """The pre-activation leaks: v' = (1 - leak) v + leak (W_x x + W_h h), h' = γ(v'; n, s)."""

    def __init__(self, input_size: int, hidden_size: int, leak: float = 0.2) -> None:
        super().__init__()
        self.input = nn.Linear(input_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        nn.init.normal_(self.recurrent.weight, std=0.5 / hidden_size**0.5)
        self.activation = AdaptiveGamma(controller_size=8)
        self.hidden_size, self.controller_size, self.leak = hidden_size, 8, leak

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations (T, B, H) of a sequence (T, B, I)."""
        B = x.shape[1]
        v = h = x.new_zeros(B, self.hidden_size)
        g = x.new_zeros(B, self.hidden_size, self.controller_size)
        outputs = []
        for current in self.input(x):
            v = (1 - self.leak) * v + self.leak * (current + self.recurrent(h))
            h, g = self.activation(v, g)
            outputs.append(h)
        return torch.stack(outputs)


torch.manual_seed(0)
torch.set_num_threads(1)  # the network is small
cell, readout = LeakyCell(1, 32), nn.Linear(32, 1)
model = nn.ModuleList([cell, readout])
optimizer = torch.optim.Adam(parameter_groups(model, lr=3e-3))
for update in range(60):
    x = torch.randn(20, 16, 1)
    target = x.cumsum(0) / 20**0.5  # the sum of the inputs so far
    loss = nn.functional.mse_loss(readout(cell(x)), target)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if update % 20 == 0:
        print(f"update {update}: loss {loss.item():.3f}")
print(f"last loss {loss.item():.3f}; a constant answer has about {target.square().mean().item():.2f}")
