"""What a training loop should say out loud: memory that does not suffice, and tasks that learn nothing."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from stilts_ds.config import TrainingPart
from stilts_ds.errors import UserError, counted, first_line, is_out_of_memory
from stilts_ds.model.heads import HeadSpec
from stilts_ds.rows.batch import Batch

WINDOW = 50  # steps of a task whose mean loss is looked at
LEARNED = 0.98  # a task has learned something when its loss is below this share of chance


# What to do where memory does not suffice outside of a micro-batch: in the engine, and where a model is loaded.
SHARE_STATES = (
    "take more ranks, a higher engine.zero_stage or engine.offload_optimizer=true (`stilts plan RECIPE --phases` says "
    "what each stage needs, `--gpu-memory GIB` which one fits)"
)
MORE_TO_LOAD = (
    "rank 0 holds the whole model in float32 on its host meanwhile (`stilts plan RECIPE --phases` says how much); give "
    "its node more memory, or start fewer ranks on it"
)


@contextmanager
def memory_explained(moment: str, remedy: str) -> Iterator[None]:
    """Raises UserError, which tells when it was and what to do, where memory runs out inside."""
    try:
        yield
    except UserError:  # which says what it is about
        raise
    except Exception as problem:  # safetensors and the system have kinds of their own
        if not is_out_of_memory(problem):
            raise
        raise UserError(f"out of memory {moment}; {remedy} ({first_line(problem)[:200]})") from problem


def explain_memory(problem: RuntimeError, batch: Batch, setting: TrainingPart) -> UserError | None:
    """What to tell about too little memory: the batch and what to change. None where `problem` is another one."""
    if not is_out_of_memory(problem):
        return None
    return UserError(
        f"out of memory in a micro-batch of {counted(len(batch.lengths), 'row')} and "
        f"{counted(sum(batch.lengths), 'token')}, at most {max(batch.lengths)} in a row; "
        "lower per_device_train_batch_size "
        f"({setting.per_device_train_batch_size}; the batch of a step stays {setting.train_batch_size}), set "
        "engine.gradient_checkpointing=true, a higher engine.zero_stage or engine.offload_optimizer=true "
        f"({str(problem).splitlines()[0][:200]})"
    )


def _alternatives(spec: HeadSpec) -> int:
    """Answers among which a head chooses: the choices of a question, or labels."""
    return spec.width if spec.width > 1 else len(spec.labels)


class ChanceWatch:
    """Notices tasks whose loss does not fall below that of guessing evenly among their labels."""

    def __init__(self, tasks: Mapping[str, HeadSpec]) -> None:
        sizes = {name: _alternatives(spec) for name, spec in tasks.items()}
        # Heads without a fixed number of answers (spans, masked words) have no chance to be compared with.
        self.chance = {name: math.log(size) for name, size in sizes.items() if size > 1}
        self.recent: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=WINDOW))
        self.reported: set[str] = set()

    def add(self, losses: Iterable[tuple[str, float]]) -> None:
        """Mean losses of one step by task."""
        for name, loss in losses:
            self.recent[name].append(loss)

    def stuck(self) -> list[str]:
        """A sentence for each task that is at chance over its last 50 steps; each task is told once."""
        stuck_heads = []
        for name, chance in sorted(self.chance.items()):
            recent = self.recent[name]
            if len(recent) < WINDOW or name in self.reported:
                continue
            mean = sum(recent) / len(recent)
            if mean > LEARNED * chance:
                self.reported.add(name)
                stuck_heads.append(
                    f"{name} is at chance: mean loss {mean:.3f} over its last {WINDOW} steps, guessing gives "
                    f"{chance:.3f}; look at its examples, learning_rate and the number of steps"
                )
        return stuck_heads
