"""Training on several processes with torchrun.

Each process computes a part of the batch, and DistributedDataParallel averages the gradients. On CPUs it uses
gloo. Started without torchrun, the program is one process:

    torchrun --standalone --nproc-per-node 2 docs/examples/distributed.py
"""

import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from aru_kernels import ARUN, parameter_groups


class Classifier(nn.Module):
    """Two classes from the layer's last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = ARUN(2, 32)
        self.readout = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B, 2) of a batch (T, B, 2)."""
        _output, (h_n, _g_n) = self.rnn(x)
        return self.readout(h_n[-1])


rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
torch.set_num_threads(1)
torch.manual_seed(0)  # the same weights in every process
model: nn.Module = Classifier()
optimizer = torch.optim.Adam(parameter_groups(model, lr=1e-2))  # of the model itself, whose layers it looks for
if world > 1:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(model)

torch.manual_seed(1 + rank)  # other sequences in every process
for _ in range(30):
    y = torch.randint(2, (64 // world,))
    x = 0.5 * torch.randn(30, len(y), 2) + 0.4 * nn.functional.one_hot(y, 2)
    loss = nn.functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()

total = torch.stack([p.detach().double().sum() for p in model.parameters()]).sum()
if world > 1:
    totals = [torch.zeros_like(total) for _ in range(world)]
    dist.all_gather(totals, total)
    assert all(other == total for other in totals), "the processes have different weights"
    dist.destroy_process_group()
if rank == 0:
    print(f"{world} process{'es' if world > 1 else ''}, the same weights in each, loss {loss.item():.3f}")
