"""Dropout by counters: equal bits on every path, masks that no shape or order changes, and their statistics."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import ranks
import torch
from stilts_kernels.dropout import cpu
from stilts_kernels.dropout.function import dropout, dropout_of_squares
from stilts_kernels.dropout.hashing import LANES, fold, mix, scale_of, threshold_of
from stilts_kernels.dropout.reference import dropout_reference, keep_mask, lanes

SHAPES = [(5, 1, 33), (3, 7, 9), (1, 1, 1), (40, 1, 384), (2, 30, 30)]


def keys_of(count: int, seed: int = 1) -> torch.Tensor:
    return fold(torch.tensor(seed), torch.arange(count))


def test_the_finaliser_is_splitmix64s() -> None:
    """Its first numbers from the seed 1234567, as its authors publish them."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    drawn = [int(fold(torch.tensor(1234567), index)) % 2**64 for index in range(4)]
    assert drawn == published
    assert int(mix(torch.tensor(0))) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_cpus_lanes_equal_the_reference_forward_and_backward(
    shape: tuple[int, int, int], rate: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "BLOCK", 64)  # several blocks
    x, upper = torch.randn(shape, dtype=dtype).requires_grad_(), torch.randn(shape, dtype=dtype)
    keys = keys_of(shape[0])
    out = dropout(x, keys, 6, rate)
    out.backward(upper)
    assert torch.equal(out, dropout_reference(x.detach(), fold(keys, 6), rate))
    assert torch.equal(x.grad, dropout_reference(upper, fold(keys, 6), rate))


@pytest.mark.parametrize("block", [64, 1 << 17])
def test_squares_of_many_sizes_are_dropped_as_each_by_itself(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several sizes in a block, a size in several blocks, and planes larger than one."""
    monkeypatch.setattr(cpu, "BLOCK", block)
    planes, sides = [3, 40, 1, 2, 5], [7, 1, 2, 31, 6]
    keys = keys_of(sum(planes))
    inputs = [torch.randn(number, side, side).requires_grad_() for number, side in zip(planes, sides)]
    drops = dropout_of_squares(keys, planes, sides, 9, 0.3)
    for x, drop, of_square in zip(inputs, drops, keys.split(planes), strict=True):
        upper = torch.randn_like(x)
        out = drop(x)
        out.backward(upper)
        assert torch.equal(out, dropout_reference(x.detach(), fold(of_square, 9), 0.3))
        assert torch.equal(x.grad, dropout_reference(upper, fold(of_square, 9), 0.3))
    assert all(drop(x) is x for x, drop in zip(inputs, dropout_of_squares(keys, planes, sides, 9, 0.0)))


def test_strided_planes_and_gradients_are_those_of_contiguous_ones() -> None:
    x = torch.randn(6, 9, 4).transpose(1, 2).requires_grad_()
    upper = torch.randn(4, 6, 9).transpose(0, 1)
    out = dropout(x, keys_of(6), 0, 0.4)
    out.backward(upper)
    assert torch.equal(out, dropout_reference(x.detach(), fold(keys_of(6), 0), 0.4))
    assert torch.equal(x.grad, dropout_reference(upper, fold(keys_of(6), 0), 0.4))


def test_a_mask_is_the_same_in_larger_planes_and_in_any_order_of_them() -> None:
    keys = keys_of(20)
    large, small = keep_mask(keys, 11, 18, 0.3), keep_mask(keys, 7, 13, 0.3)
    assert torch.equal(large[:, :7, :13], small)
    order = torch.randperm(20)
    assert torch.equal(keep_mask(keys[order], 7, 13, 0.3), small[order])


def test_rates_are_exact_to_sixteen_bits_and_scales_to_them() -> None:
    assert [threshold_of(rate) for rate in (0.0, 0.1, 0.5, 0.9999999)] == [0, 6554, 32768, LANES - 1]
    assert scale_of(32768) == 2.0 and scale_of(threshold_of(0.1)) == LANES / (LANES - 6554)
    x = torch.ones(3, 1, 5)
    assert dropout(x, keys_of(3), 0, 0.0) is x
    for rate in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="not in 0 <= rate < 1"):
            dropout(x, keys_of(3), 0, rate)
    with pytest.raises(ValueError, match="3 planes, but 2 keys"):
        dropout(x, keys_of(2), 0, 0.1)


# --- statistics: the draws are fixed, so that these tests are, too ----------------------------------------------------

RATE = 0.1
P = threshold_of(RATE) / LANES
TOKENS, CHANNELS = 4000, 256


def dropped(site: int, seed: int = 1) -> torch.Tensor:
    """[TOKENS, CHANNELS], of 500 rows with 8 positions each."""
    tokens = fold(keys_of(TOKENS // 8, seed)[:, None], torch.arange(8)).flatten()
    return ~keep_mask(fold(tokens, site), 1, CHANNELS, RATE)[:, 0]


def deviation(mask: torch.Tensor, p: float) -> float:
    """How many standard deviations a count lies from its mean, were elements independent."""
    return (int(mask.sum()) - mask.numel() * p) / math.sqrt(mask.numel() * p * (1 - p))


def test_rates_are_right_as_a_whole_in_each_channel_and_in_each_token() -> None:
    mask = dropped(0)
    assert abs(deviation(mask, P)) < 4
    for axis, count in ((0, CHANNELS), (1, TOKENS)):
        deviations = torch.tensor([deviation(line, P) for line in mask.unbind(1 - axis)])
        assert len(deviations) == count
        assert float(deviations.square().mean()) == pytest.approx(1, abs=5 * math.sqrt(2 / count))
        assert float(deviations.abs().max()) < 6


@pytest.mark.parametrize("lag", [1, 2, 3, 8, 16, 64])
def test_neighbouring_positions_rows_and_channels_are_independent(lag: int) -> None:
    """8 positions a row: a lag of 8 compares rows."""
    mask = dropped(0)
    assert abs(deviation(mask[lag:] & mask[:-lag], P * P)) < 4.5
    assert abs(deviation(mask[:, lag:] & mask[:, :-lag], P * P)) < 4.5


def test_sites_layers_steps_and_seeds_are_independent() -> None:
    masks = [dropped(site) for site in (0, 1, 2, 1 << 20)] + [dropped(0, seed) for seed in (2, 3)]
    for number, mask in enumerate(masks):
        for another in masks[:number]:
            assert abs(deviation(mask & another, P * P)) < 4.5


def test_no_pair_of_channels_or_of_tokens_is_correlated() -> None:
    """All pairs: products of centred masks have mean 0, the spread of independent ones and no outlier."""
    centred = dropped(5).float() - P
    for matrix in (centred.T, centred[:1000]):
        size = matrix.shape[1]
        scores = matrix @ matrix.T / (P * (1 - P) * math.sqrt(size))
        pairs = scores[torch.triu_indices(*scores.shape, offset=1).unbind()]
        assert abs(float(pairs.mean())) * math.sqrt(len(pairs)) < 4.5
        assert float(pairs.std()) == pytest.approx(1, abs=0.03)
        assert float(pairs.abs().max()) < 9  # the tail of a binomial at p = 0.01 is heavier than a normal one's


def test_heads_queries_and_keys_of_attention_are_independent() -> None:
    heads = fold(keys_of(100)[:, None], torch.arange(12)).flatten()
    mask = ~keep_mask(fold(heads, 3), 24, 24, RATE)
    upper = torch.triu(torch.ones(24, 24, dtype=torch.bool), 1)
    pairs = {
        "heads": mask[1:] & mask[:-1],
        "queries": mask[:, 1:] & mask[:, :-1],
        "keys": mask[..., 1:] & mask[..., :-1],
        "(i, j) and (j, i)": (mask & mask.transpose(1, 2))[:, upper],
    }
    for name, both in pairs.items():
        assert abs(deviation(both, P * P)) < 4.5, name


def test_all_sixteen_bits_are_uniform() -> None:
    bits = lanes(keys_of(TOKENS), 1, CHANNELS).flatten()
    for byte in (bits >> 8, bits & 255):
        counts = torch.bincount(byte, minlength=256).double()
        expected = len(bits) / 256
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert abs(chi_square - 255) < 5 * math.sqrt(2 * 255)


# --- the kernels -----------------------------------------------------------------------------------------------------

INTERPRETED = """
import torch
from stilts_kernels.dropout.attention import fused_attention
from stilts_kernels.dropout.hashing import fold, scale_of, threshold_of
from stilts_kernels.dropout.kernel import launch
from stilts_kernels.dropout.reference import dropout_reference, keep_mask

for shape in ((5, 1, 33), (3, 7, 9), (9, 1, 300), (2, 30, 41)):
    for dtype, rate in ((torch.float32, 0.1), (torch.float16, 0.5), (torch.float32, 0.9)):
        x, keys = torch.randn(shape).to(dtype), torch.randint(-2**62, 2**62, shape[:1])
        assert torch.equal(launch(x, keys, 5, threshold_of(rate)), dropout_reference(x, fold(keys, 5), rate))

for lengths, heads, size in (((5, 33, 1, 70), 2, 24), ((40,), 1, 16)):
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
    q, k, v, upper = (torch.randn(sum(lengths), heads, size, dtype=torch.float64) for _ in range(4))
    keys = torch.randint(-2**62, 2**62, (len(lengths), heads))
    ours = [x.float().requires_grad_() for x in (q, k, v)]
    out = fused_attention(*ours, offsets, max(lengths), keys, 3, 0.3, None)
    out.backward(upper.float())
    exact = [x.requires_grad_() for x in (q, k, v)]
    rows = []
    for row, length in enumerate(lengths):
        here = slice(int(offsets[row]), int(offsets[row + 1]))
        query, key, value = (x[here].transpose(0, 1) for x in exact)
        probabilities = (query @ key.transpose(1, 2) * size**-0.5).softmax(-1)
        kept = keep_mask(fold(keys[row], 3), length, length, 0.3) * scale_of(threshold_of(0.3))
        rows.append(((probabilities * kept) @ value).transpose(0, 1))
    expected = torch.cat(rows)
    expected.backward(upper)
    for found, right in [(out, expected), *((a.grad, b.grad) for a, b in zip(ours, exact))]:
        torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=5e-6)
print("interpreter agrees")
"""


@pytest.mark.processes
def test_the_interpreted_kernels_drop_what_the_reference_drops() -> None:
    """Hidden states to the bit (not bfloat16, which the interpreter truncates); attention up to float32's rounding."""
    pytest.importorskip("triton")
    environment = ranks.environment(TRITON_INTERPRET="1")
    command = [sys.executable, "-c", INTERPRETED]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=400)
    assert done.returncode == 0 and "interpreter agrees" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("capability", [80, 90])
def test_dropout_of_hidden_states_compiles_without_spills(capability: int) -> None:
    pytest.importorskip("triton")
    from stilts_bench.compile_check import POINTER, compile_dropout

    for dtype in POINTER:
        assert not compile_dropout(capability, dtype).fails()


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_attention_with_dropout_compiles_without_spills(capability: int) -> None:
    pytest.importorskip("triton")
    from stilts_bench.compile_check import ATTENTION, POINTER, compile_attention

    for dtype in POINTER:
        for kernel in ATTENTION:
            assert not compile_attention(capability, kernel, dtype).fails()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_gpu_drops_what_the_cpu_drops(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        x, keys = torch.randn(shape).to(dtype), keys_of(shape[0])
        assert torch.equal(dropout(x.cuda(), keys.cuda(), 6, 0.1).cpu(), dropout(x, keys, 6, 0.1))
