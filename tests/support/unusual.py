"""Tensors that the short path (`aru_kernels._usual`) does not take, made of those that it does."""

from __future__ import annotations

import torch


class Subclass(torch.Tensor):
    pass


def shrunk(x):
    x = x.clone()
    x.untyped_storage().resize_(8)
    return x


def resized_neighbour(x):
    """A view whose offset leads beyond its storage."""
    larger = torch.cat([x, x])
    view = larger[x.shape[0] :]
    larger.untyped_storage().resize_(larger.nbytes - 4)
    return view


TENSORS = {
    "a subclass": lambda x: x.as_subclass(Subclass),
    "not contiguous": lambda x: x.mT.contiguous().mT,
    "negative by a bit": lambda x: torch.complex(x, -x).conj().imag,
    "zeros without memory": lambda x: torch._efficientzerotensor(tuple(x.shape)),
    "freed": shrunk,
    "beyond its storage": resized_neighbour,
    "another dtype": lambda x: x.double(),
    "narrow": lambda x: x.half(),
    "integers": lambda x: x.int(),
    "sparse": lambda x: x.to_sparse(),
    "on meta": lambda x: x.to("meta"),
    "of another shape": lambda x: x[..., 1:].contiguous(),
    "without a batch": lambda x: x[0],
    "a list": lambda x: x.tolist(),
    "None": lambda x: None,
    "nested": lambda x: torch.nested.as_nested_tensor(list(x), layout=torch.jagged),
}
