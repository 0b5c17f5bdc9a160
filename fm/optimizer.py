"""Adam on the flat gradient buffer, by torch's fused kernel.

torch.optim is equal to the last rounding (a test) but imports torch's compiler at first use: 5 CPU seconds in each
worker, on which a short run on a laptop spends more than on all its optimiser steps.
"""

import torch
from torch import Tensor, nn

from fm.parallel import Gradients
from fm.sharding import sharded_as

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class Adam:
    """Kingma & Ba 2015 without weight decay, on the parameters that `gradients` holds the gradients of."""

    def __init__(self, model: nn.Module, gradients: Gradients) -> None:
        self.gradients = gradients
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(gradients.flat), torch.zeros_like(gradients.flat)
        # Made once: a GPU waits for all that comes between the norm of the gradients and the step.
        self.views = [gradients.views(flat) for flat in (gradients.flat, self.exp_avg, self.exp_avg_sq)]

    @torch.no_grad()
    def step(self, rate: float, number: int) -> None:
        """Step `number`, from 1, at learning rate `rate`."""
        parameters, (gradients, exp_avg, exp_avg_sq) = self.gradients.parameters, self.views
        torch._fused_adam_(
            parameters,
            gradients,
            exp_avg,
            exp_avg_sq,
            [],  # maxima, of AMSGrad
            [torch.full((), float(number), device=self.exp_avg.device)] * len(parameters),
            lr=rate,
            beta1=BETA_1,
            beta2=BETA_2,
            weight_decay=0.0,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The moments by parameter name, live: writing into them restores them."""
        return {
            f"{kind}.{name}": sharded_as(view, parameter)
            for kind in ("exp_avg", "exp_avg_sq")
            for (name, parameter), view in zip(
                self.parameters.items(), self.gradients.views(getattr(self, kind)), strict=True
            )
        }
