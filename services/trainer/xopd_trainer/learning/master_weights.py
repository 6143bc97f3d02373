"""Master weights: what the optimiser steps, apart from the parameters that are sampled, published and run.

Pods hold the weights in `student.dtype`, and the learner's forward pass must see the same values, or the importance
ratio is not 1 in strict on-policy training. Stepped in bfloat16 they would hardly move: 0.02 and its neighbours lie
1.2e-4 apart there, and a step of 1e-6 is rounded away. So the optimiser steps a copy in `learner.master_dtype`, and the
parameters are the masters rounded to `student.dtype`, to nearest, ties to even. Before the first step they are equal:
the masters begin as the student's checkpoint in `student.dtype`.

Bytes a parameter, and GiB for 30.5 billion of them:

    student.dtype / master_dtype    parameter  gradient  master  two moments    together
    float32 / float32                   4         4         -         8          16   455 GiB
    bfloat16 / float32                  2         4         4         8          18   511 GiB
    bfloat16 / bfloat16                 2         2         -         4           8   227 GiB

On top come activations and, within a backward pass, up to one gradient more in `student.dtype` (2 bytes, 57 GiB; 4 for
float32): prompts and responses are two passes over the same weights, and autograd keeps what the responses' pass gives
until it can add what the prompts' pass gives. The sum is then cast into the parameter's gradient, one tensor at a time;
Adam on a CPU takes one tensor after another as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn


class MasterWeights:
    """The masters of a policy's trained parameters; where the dtypes are equal, the parameters themselves."""

    def __init__(self, trained: Mapping[str, nn.Parameter], dtype: torch.dtype) -> None:
        """Copy the parameters that are not of `dtype`, and have their gradients summed in it.

        The sum over micro-batches then loses no more than `dtype` does, however many they are. What one backward pass
        gives is still rounded to the parameter's dtype.

        Args:
            trained: by the policy's own names, all of one dtype.
            dtype: of the masters; at least as precise as the parameters'.
        """
        self._trained = trained
        self.dtype = dtype
        self.separate = any(parameter.dtype != dtype for parameter in trained.values())
        """Whether the masters are a copy."""
        self.weights: Mapping[str, nn.Parameter] = trained
        """What the optimiser steps, by the policy's own names, in their order."""
        if self.separate:
            self.weights = {name: nn.Parameter(p.detach().to(dtype, copy=True)) for name, p in trained.items()}
            for parameter in trained.values():
                parameter.grad_dtype = dtype

    @property
    def dtype_name(self) -> str:
        """The masters' number format as settings name it."""
        return str(self.dtype).removeprefix("torch.")

    def clear_gradients(self) -> None:
        """Free the gradients of the step before."""
        for name, parameter in self._trained.items():
            parameter.grad = self.weights[name].grad = None

    def clip_gradients(self, max_norm: float | None) -> float:
        """Hand the masters the gradients that the backward passes summed, scaled to a norm of at most `max_norm`.

        A gradient is handed over, not copied. Returns the norm of all of them before that, computed in float32.
        """
        if self.separate:
            for name, parameter in self._trained.items():
                self.weights[name].grad = parameter.grad
        masters = [master for master in self.weights.values() if master.grad is not None]
        norms = [torch.linalg.vector_norm(master.grad, dtype=torch.float32) for master in masters]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        nn.utils.clip_grads_with_norm_(masters, max_norm or math.inf, norm)
        return float(norm)

    @torch.no_grad()
    def round_into_parameters(self) -> None:
        """Set the parameters to the masters rounded to their dtype: to nearest, ties to even, as torch converts."""
        if self.separate:
            for name, parameter in self._trained.items():
                parameter.copy_(self.weights[name])
