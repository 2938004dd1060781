"""Linear layers on a CPU without gradients: weights in oneDNN's blocked layout.

torch multiplies float32 by MKL's general product, which takes the weight as it lies in memory and writes the bias in a
pass of its own. oneDNN takes weights that were reordered once, adds the bias and computes GELU in the same pass. Its
sums run in another order, so that states differ from torch's by float32 rounding.
"""

from __future__ import annotations

import torch
from stilts_kernels.common.products import can_pack
from torch import nn
from torch.nn import functional

PASS_TOKENS = 2048  # the layout is chosen for so many; a pass with more or fewer takes the same weights


class BlockedLinear(nn.Linear):
    """A linear layer that is not trained again: `gelu` follows where it is set. [..., in] to [..., out].

    The plain weight stays, for networks that read it; the blocked one is no parameter and takes as much memory again.
    """

    def __init__(self, linear: nn.Linear, gelu: bool) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.gelu = gelu
        self._blocked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PASS_TOKENS)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        # "none" is GELU by the error function, as torch's own; the other kind is by tanh.
        activation, kind = ("gelu", "none") if self.gelu else ("none", "")
        bias = None if self.bias is None else self.bias.detach()
        return torch.ops.mkldnn._linear_pointwise(input, self._blocked, bias, activation, [], kind)


def block_weights(network: nn.Module) -> None:
    """Let the float32 linear layers of a network on a CPU take blocked weights. It cannot be trained afterwards.

    Other numbers, other devices and a torch without oneDNN are left as they are.
    """
    if not can_pack():
        return
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            # Subclasses may do more than multiply.
            if type(layer) is nn.Linear and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32:
                gelu = name == "dense" and takes_gelu(parent)
                setattr(parent, name, BlockedLinear(layer, gelu))
                if gelu:
                    parent.intermediate_act_fn = nn.Identity()


def takes_gelu(block: nn.Module) -> bool:
    """Whether a block is one of BERT's or its relatives' that computes GELU right behind its layer `dense`."""
    activation = getattr(block, "intermediate_act_fn", None)
    if not isinstance(activation, nn.Module):
        return False
    # By what it computes: GELU has many names, and some of them are its approximation.
    sample = torch.linspace(-6.0, 6.0, 1001)
    return torch.equal(activation(sample), functional.gelu(sample))
