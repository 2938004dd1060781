"""Linear layers with blocked weights compute what torch's do, to what float32 itself loses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stilts_ds.model.onednn import BlockedLinear, block_weights


class Block(nn.Module):
    """A block as BERT's relatives have it."""

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.dense = nn.Linear(24, 40)
        self.intermediate_act_fn = activation

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.intermediate_act_fn(self.dense(hidden))


class Scaled(nn.Linear):
    """A layer that does more than multiply."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def states(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 7, 3000])
def test_a_blocked_layer_loses_no_more_than_torchs_own(bias: bool, tokens: int) -> None:
    torch.manual_seed(1)
    layer = nn.Linear(96, 130, bias=bias)
    hidden = states(2, 1, tokens, 96)
    with torch.no_grad():
        blocked, exact = BlockedLinear(layer, gelu=False)(hidden), layer.double()(hidden.double())
        lost = (layer.float()(hidden) - exact).abs().max()
    assert blocked.shape == exact.shape and blocked.dtype == torch.float32
    assert (blocked - exact).abs().max() <= 4 * lost + 1e-7


@pytest.mark.parametrize(
    "activation, fused",
    [(nn.GELU(), True), (nn.GELU(approximate="tanh"), False), (nn.ReLU(), False)],
    ids=["gelu", "tanh", "relu"],
)
def test_gelu_alone_is_computed_with_the_product(activation: nn.Module, fused: bool) -> None:
    torch.manual_seed(1)
    block = Block(activation)
    hidden = states(3, 50, 24) * 4
    with torch.no_grad():
        expected = block(hidden)
        block_weights(block)
        assert isinstance(block.dense, BlockedLinear) and block.dense.gelu == fused
        assert isinstance(block.intermediate_act_fn, nn.Identity) == fused
        assert torch.allclose(block(hidden), expected, atol=2e-6)


def test_layers_of_another_kind_are_left_as_they_are() -> None:
    network = nn.ModuleDict({"scaled": Scaled(8, 8), "rounded": nn.Linear(8, 8).bfloat16(), "plain": nn.Linear(8, 8)})
    weight = network["plain"].weight
    block_weights(network)
    assert type(network["scaled"]) is Scaled and type(network["rounded"]) is nn.Linear
    # Networks that read a layer's weight find it, and files of the model hold the same names.
    assert network["plain"].weight is weight and {"plain.weight", "plain.bias"} <= set(network.state_dict())
