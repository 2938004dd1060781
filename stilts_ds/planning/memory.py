"""How much memory training takes on one rank, as formulas. No torch: a login node can ask.

Model states follow Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054, section 3: weights, gradients and 12 bytes a
parameter of Adam in mixed precision, each whole or divided by the ranks), changed where DeepSpeed 0.19.8 does
otherwise. Activations follow Korthikanti et al. 2022 (arXiv 2205.05198, section 4.1), without the attention matrix
where the attention kernel keeps none.

Symbols: P trained parameters, N ranks, s bytes of a value in the model (float32 4, bfloat16 and float16 2).

| stage | weights | gradients | optimizer           | buffers                                        | step           |
|-------|---------|-----------|---------------------|------------------------------------------------|----------------|
| 0     | sP      | sP        | 8P (12P where s=2)  | one all-reduce of at most 500 million values   | 0 (4P)         |
| 1     | sP      | sP        | 12P/N               | reduce_bucket_size values                      | 4P/N           |
| 2     | sP      | sP/N      | 12P/N               | the same, twice with overlap_comm              | 4P/N           |
| 3     | sP/N    | sP/N      | 12P/N               | reduce_bucket_size, and what is gathered       | 4P/N           |

Gathered at stage 3 are stage3_max_live_parameters weights, or the largest single parameter where that is more, and
that parameter's whole gradient.

DeepSpeed's own behaviour, read in its source and not in the paper: stages 1 to 3 keep a float32 master partition even
of float32 weights (stage 3 means to avoid it, but compares a torch.device with a string); the optimizer step copies the
rank's gradients once more; buckets are allocated whole, however small the model (on CPUs, pages that are never touched
take no memory). With optimiser offload, 16 + s bytes for each of a rank's P/N parameters stand in host memory, and no
optimizer state and no step on the device.

docs/plan.md says how far this is from measured peaks. Nothing here is fitted to them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from stilts_ds.config import EnginePart
from stilts_ds.ds_files import base_config
from stilts_ds.model_files import Shape

GIB = 2**30
ALLREDUCE_VALUES = 500_000_000  # deepspeed.runtime.engine.MEMORY_OPT_ALLREDUCE_SIZE


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank's device. `host` are bytes in host memory because of offload."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    gathered: int
    step: int
    activations: int
    build: int
    host: int
    save: int = 0  # on top of the states, while a checkpoint is gathered

    @property
    def states(self) -> int:
        """What stays for the whole training, as in the ZeRO paper: weights, gradients and optimizer states."""
        return self.weights + self.gradients + self.optimizer

    @property
    def peak(self) -> int:
        """The most at one time: at the end of a forward pass, in the optimizer step, while a checkpoint is gathered, or
        while the engine is built."""
        stays = self.states + self.buffers
        return max(stays + self.gathered + self.activations, stays + self.step, stays + self.save, self.build)


@dataclass(frozen=True)
class MicroBatch:
    """The largest micro-batch of a rank: `rows` sequences of `length` tokens. `masked` of them are MLM targets."""

    rows: int
    length: int
    masked: int = 0

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def value_bytes(dtype: str) -> int:
    """Bytes of a weight, gradient or activation for `engine.dtype`; `auto` may take the larger ones."""
    return 2 if dtype in ("bf16", "fp16") else 4


def memory(
    shape: Shape,
    trained: int,
    largest: int,
    engine: EnginePart,
    ranks: int,
    batch: MicroBatch,
    *,
    eager: bool = False,
    cpu: bool = False,
) -> Memory:
    """Memory of one of `ranks` ranks that train `trained` parameters, the largest single one of `largest` values.

    `engine` says stage, dtype, offload and checkpointing; `eager` attention keeps its probabilities, as CPUs always do.
    Raises UserError where an own DeepSpeed file cannot be read.
    """
    s, stage, partition = value_bytes(engine.dtype), engine.zero_stage, -(-trained // ranks)
    offload = engine.offload_optimizer and stage > 0
    # Stage 3 alone divides the weights; the others keep a whole copy on each rank.
    weights = s * (partition if stage == 3 else trained)
    gradients = s * (partition if stage >= 2 else trained)
    if offload and stage > 1:  # each bucket goes to the host as soon as it is reduced
        gradients = 0
    zero = base_config(engine).get("zero_optimization", {})
    buffers, gathered = _communication(zero, stage, s, trained, largest, ranks)
    if cpu:
        buffers = min(buffers, 2 * s * trained if stage == 2 and zero.get("overlap_comm") else s * trained)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=0 if offload else _optimizer(stage, s, trained, partition),
        buffers=buffers,
        gathered=gathered,
        step=0 if offload else _step(stage, s, trained, partition),
        activations=activations(shape, batch, s, engine.gradient_checkpointing, eager or cpu),
        # At stage 3 one parameter after the other is divided among the ranks.
        build=weights + s * largest if stage == 3 else s * trained,
        host=(16 + s) * partition if offload else 0,
        save=save_bytes(stage, largest),
    )


def save_bytes(stage: int, largest: int) -> int:
    """The largest parameter's weight or moment, whole in float32. At stage 3 DeepSpeed holds it three times while it is
    put together: the parts, in a row, and the whole (measured: docs/scale.md)."""
    return (12 if stage == 3 else 4) * largest


def _optimizer(stage: int, s: int, trained: int, partition: int) -> int:
    """Adam's two moments and a float32 master copy, which only whole float32 weights do without."""
    master = 0 if s == 4 and stage == 0 else 4
    return (8 + master) * (trained if stage == 0 else partition)


def _step(stage: int, s: int, trained: int, partition: int) -> int:
    """The float32 gradients that the optimizer reads, where they are a copy."""
    if stage == 0:
        return 4 * trained if s == 2 else 0
    return 4 * partition


def _communication(zero: dict[str, Any], stage: int, s: int, trained: int, largest: int, ranks: int) -> tuple[int, int]:
    """Bytes of reduction buffers, and of weights and gradients that stage 3 holds whole for a moment."""
    if stage == 0:
        return (s * min(trained, ALLREDUCE_VALUES) if ranks > 1 else 0), 0
    bucket = s * int(zero.get("reduce_bucket_size", 500_000_000))
    if stage < 3:
        return bucket * (2 if stage == 2 and zero.get("overlap_comm") else 1), 0
    live = min(trained, max(int(zero.get("stage3_max_live_parameters", 1_000_000_000)), largest))
    return bucket, s * live + s * largest


def activations(shape: Shape, batch: MicroBatch, s: int, checkpointing: bool, attention_matrix: bool = False) -> int:
    """Bytes that a forward pass keeps for the backward pass, in values of `s` bytes.

    A layer keeps its input, query, key, value and the attention's output, both LayerNorms' inputs and one output (8 H),
    the feed-forward part before and after GELU (2 I), and two dropout masks of a byte a value: 34 H bytes a token where
    s = 2 and I = 4 H, as in the paper. A feed-forward part with a gate keeps the gate before and after its activation
    and the product besides (4 I in all). With `attention_matrix` (eager attention) probabilities, their dropout and its
    mask come on top. Checkpointing keeps the layers' inputs and one whole layer.
    """
    hidden, tokens = shape.hidden, batch.tokens
    inner = shape.intermediate * (4 if shape.gated else 2)
    layer = tokens * ((8 * hidden + inner) * s + 2 * hidden)
    if attention_matrix:
        layer += batch.rows * shape.heads * batch.length**2 * (2 * s + 1)
    layers = shape.layers * tokens * hidden * s + layer if checkpointing else shape.layers * layer
    ends = tokens * (2 * hidden * s + hidden)  # embeddings' LayerNorm and dropout, the last layer's output
    # MLM logits: in s bytes, in float32 where that is another type, their log-softmax and its gradient.
    logits = batch.masked * shape.vocabulary * (s + (4 if s == 2 else 0) + 8)
    return layers + ends + logits


def trained_parameters(shape: Shape, vocabulary_rows: int, heads: Iterable[int]) -> int:
    """Parameters that a phase trains: the encoder with `vocabulary_rows` word-embedding rows, and its heads."""
    return shape.body + vocabulary_rows * shape.width + sum(heads)


def largest_parameter(shape: Shape, vocabulary_rows: int) -> int:
    """Values of the largest single tensor: word embeddings or a feed-forward matrix."""
    return max(vocabulary_rows * shape.width, shape.hidden * shape.intermediate)
