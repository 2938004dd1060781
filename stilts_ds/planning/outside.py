"""Memory outside the steps of training: while a model is loaded, saved, exported, and while it predicts. No torch.

Symbols: P trained parameters, W parameters of the whole model with all vocabulary rows, L values of the largest trained
tensor, N ranks.

| moment     | a rank's device                                  | host                                       |
|------------|--------------------------------------------------|--------------------------------------------|
| loading    | the step's weights (`Memory.build`)              | rank 0: 4 W                                |
| a save     | the states, and one tensor whole: 4 L, 12 L at   | each rank: its share until written, 12 P/N |
|            | stage 3 (memory.py)                              |                                            |
| an export  | the same                                         | rank 0: 4 W                                |
| evaluation | 4 W and a forward pass; at stage 3, with several | rank 0, while it loads: 4 W                |
|            | ranks, 4 W/N, what is gathered and the pass      |                                            |

Evaluation is in float32 whatever the training was in (stilts_ds/export.py). A pass without gradients keeps one layer's
values: its input and the attention's four, or the feed-forward part's, whichever are more.
"""

from __future__ import annotations

from dataclasses import dataclass

from stilts_ds.config import EnginePart
from stilts_ds.ds_files import base_config
from stilts_ds.model_files import Shape
from stilts_ds.planning.memory import MicroBatch, save_bytes

FLOAT = 4  # bytes of a weight, a moment and a value in evaluation
STATES = 3  # of a trained parameter in a checkpoint: the weight and two moments


@dataclass(frozen=True)
class Outside:
    """Bytes. `save` comes on top of a rank's states; `evaluation` is all that an evaluating device holds. Of the host,
    `save_host` is each rank's, `load_host` and `export_host` are rank 0's alone."""

    save: int
    evaluation: int
    save_host: int
    load_host: int
    export_host: int

    @property
    def host(self) -> int:
        """The most of rank 0's host memory at one time."""
        # An export may begin while the last checkpoint is still being written.
        return max(self.load_host, self.save_host + self.export_host)


def outside(
    shape: Shape,
    trained: int,
    heads: int,
    largest: int,
    engine: EnginePart,
    ranks: int,
    batch: MicroBatch,
    eager: bool = False,
) -> Outside:
    """Memory around the steps of a phase that trains `trained` parameters, `heads` of them in its heads, and predicts
    batches of `batch`. Raises UserError where an own DeepSpeed file cannot be read."""
    whole = shape.parameters + heads
    evaluation = _evaluation_weights(whole, shape, engine, ranks) + pass_bytes(shape, batch, eager)
    trained_by_rank = -(-trained // ranks)
    return Outside(
        save=save_bytes(engine.zero_stage, largest),
        evaluation=evaluation,
        save_host=FLOAT * STATES * trained_by_rank,
        load_host=FLOAT * whole,
        export_host=FLOAT * whole,
    )


def _evaluation_weights(whole: int, shape: Shape, engine: EnginePart, ranks: int) -> int:
    if engine.zero_stage < 3 or ranks == 1:
        return FLOAT * whole
    zero = base_config(engine).get("zero_optimization", {})
    largest = max(shape.vocabulary * shape.width, shape.hidden * shape.intermediate)
    live = min(whole, max(int(zero.get("stage3_max_live_parameters", 1_000_000_000)), largest))
    # The largest tensor's parts stand beside the whole while it is gathered.
    return FLOAT * (-(-whole // ranks) + live + largest)


def pass_bytes(shape: Shape, batch: MicroBatch, eager: bool = False) -> int:
    """Bytes of a forward pass without gradients, in float32."""
    inner = shape.intermediate * (3 if shape.gated else 2)
    values = batch.tokens * max(5 * shape.hidden, 2 * shape.hidden + inner)
    if eager:  # scores and probabilities of every head
        values += 2 * batch.rows * shape.heads * batch.length**2
    return FLOAT * values
