"""An ARUN in Lightning.

`configure_optimizers` gives the optimizer learning rates by fan-in, and the trainer clips the gradient. The
program needs the package `lightning`, and says so where it is not installed.
"""

import importlib.util
import sys

if importlib.util.find_spec("lightning") is None:
    print("Lightning is not installed, so this example does nothing; install it with `pip install lightning`.")
    sys.exit()

import lightning
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from aru_kernels import ARUN, parameter_groups


class Classifier(lightning.LightningModule):
    """Two classes from the layer's last state; sequences are batch first."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.rnn = ARUN(input_size, hidden_size, batch_first=True)
        self.readout = nn.Linear(hidden_size, 2)

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        """The loss of a batch."""
        x, y = batch
        _output, (h_n, _g_n) = self.rnn(x)
        return nn.functional.cross_entropy(self.readout(h_n[-1]), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, with learning rates by fan-in."""
        return torch.optim.Adam(parameter_groups(self, lr=1e-2))


torch.manual_seed(0)
torch.set_num_threads(1)  # the network is small
y = torch.randint(2, (256,))
x = 0.5 * torch.randn(256, 30, 2) + 0.4 * nn.functional.one_hot(y, 2)[:, None]  # (B, T, I)
model = Classifier(2, 32)
trainer = lightning.Trainer(
    max_epochs=3,
    accelerator="cpu",
    gradient_clip_val=1.0,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=32))
with torch.no_grad():
    _, (h_n, _) = model.rnn(x)
    print(f"accuracy {(model.readout(h_n[-1]).argmax(-1) == y).float().mean().item():.1%}")
