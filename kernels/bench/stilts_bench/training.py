"""Benchmark of a training step: packed rows against padded ones, and whole steps against Hugging Face's Trainer.

    stilts bench training --model MODEL --intermediate DIR [--out FILE.jsonl]

Own CPU seconds on one thread (on a GPU: seconds), both sides in turn over the same examples. They are drawn from all
nine intermediate tasks in proportion to their full sizes, and put into batches of 32 in the ways that others do; ours
packs whatever it is given. Dropout is 0 on both sides: with it, torch's attention on CPUs keeps all pairs of a padded
row, which would flatter packing. Nothing is timed before the gradients of packed rows were found as near to float64's
as those of padded ones, within a factor of 2.
Whole steps need `accelerate`, which Hugging Face's Trainer asks for.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from stilts_bench.pipeline import machine
from stilts_ds.batches.collate import Collator
from stilts_ds.batches.feed import Item, loss_weights
from stilts_ds.batches.mixture import Mixture
from stilts_ds.config import Recipe, SamplingPart, parse_recipe
from stilts_ds.data.data import Data
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.trainer import Trainer
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.world import World, joined
from stilts_ds.engine.zero import destroy_engine
from stilts_ds.errors import UserError
from stilts_ds.model.backbone import Layer
from stilts_ds.model.masks import Masks
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model_files import fingerprint
from stilts_ds.phase_setup import set_up_training
from stilts_ds.planner import make_plan
from stilts_ds.rows.batch import Batch
from stilts_ds.run_dir import RunDir
from stilts_ds.tasks.registry import get_task

Result = dict[str, Any]
NINE = ["anli_plus", "mnli", "qqp", "squad_v1", "squad_v2", "hellaswag", "ccg", "cosmosqa", "commonsenseqa"]
BATCH = 32
# One rank, for `joined`; port 0 lets the system choose, so that two benchmarks can run side by side.
WHERE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def recipe_for(given: argparse.Namespace, attention: str, rows: str) -> Recipe:
    training = {
        "max_seq_length": given.max_seq_length,
        "train_batch_size": BATCH,
        "per_device_train_batch_size": BATCH,
        # Beyond every benchmark, and nothing is saved: only single steps are taken out of this run.
        "max_steps": 10_000,
        "save_steps": 0,
    }
    return parse_recipe(
        {
            "name": "bench",
            "targets": ["xnli"],
            "intermediate": {"nine": NINE},
            "model": {"name_or_path": given.model, "attn_implementation": attention, "dropout": 0.0},
            # The phase that is measured reads no target, but a recipe must name a folder for one.
            "data": {"intermediate": str(given.intermediate), "xtreme": str(given.intermediate)},
            "intermediate_training": training,
            "engine": {"zero_stage": 1 if given.dtype == "bf16" else 0, "dtype": given.dtype, "vocabulary_rows": rows},
        },
        "the benchmark's recipe",
    )


def setup_for(recipe: Recipe, folder: Path, world: World) -> TrainingSetup:
    data = Data(recipe, folder)
    plan = make_plan(recipe, fingerprint(recipe.model.name_or_path, None), lambda task: "the data set")
    phase = next(phase for phase in plan.phases if phase.kind == "intermediate")
    return set_up_training(RunDir(folder), recipe, phase, data, world)


class Draws:
    """Batches of (task, item) as different trainers would make them, all from one seed."""

    def __init__(self, setup: TrainingSetup) -> None:
        self.setup = setup
        self.sizes = {name: len(task.rows) for name, task in setup.tasks.items()}
        # Shares of the full data sets, whatever part of them lies in the folder.
        full = {name: float(get_task(name).sizes["train"]) for name in self.sizes}
        self.sampling = SamplingPart(weights=full)

    def mixed(self, count: int, only: str = "") -> list[list[Item]]:
        """Every example is of a task drawn anew."""
        return self._drawn("example", count, only)

    def by_task(self, count: int) -> list[list[Item]]:
        """A batch holds one task, as in jiant."""
        return self._drawn("step", count)

    def by_length(self, count: int) -> list[list[Item]]:
        """Hugging Face's `group_by_length`: batches of like length inside 50 batches drawn together."""
        from transformers.trainer_pt_utils import get_length_grouped_indices

        pool = [item for batch in self.mixed(200) for item in batch]
        lengths = {name: task.rows.item_lengths for name, task in self.setup.tasks.items()}
        order = get_length_grouped_indices(
            [int(lengths[name][item]) for name, item in pool], BATCH, generator=torch.Generator().manual_seed(1)
        )
        batches = [[pool[i] for i in order[start : start + BATCH]] for start in range(0, len(pool), BATCH)]
        step = len(batches) // count  # spread over the pool: its batches differ in length
        return batches[step // 2 :: step][:count]

    def _drawn(self, unit: str, count: int, only: str = "") -> list[list[Item]]:
        sizes = {only: self.sizes[only]} if only else self.sizes
        sampling = self.sampling.model_copy(update={"unit": unit})
        mixture = Mixture(sizes, self.setup.setting, sampling, seed=11)
        return [mixture.step(step) for step in range(count)]


def collated(setup: TrainingSetup, items: list[Item]) -> Batch:
    """One batch with all items, longest first, as a step makes it."""
    collate = Collator(setup.tasks, setup.tokenizer, setup.setting.mlm_probability, setup.seed)
    weights = loss_weights(items, setup.tasks, setup.setting.mlm_probability)
    tokens = [int(setup.tasks[name].rows.item_tokens[item]) for name, item in items]
    # As `deal` gives a rank its examples: longest first.
    order = sorted(range(len(items)), key=lambda position: -tokens[position])
    return collate([(position, *items[position]) for position in order], 0, weights)


class Clock:
    """CPU seconds of this process, or seconds of the GPU's work."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def of(self, work: Callable[[], Any]) -> float:
        start = self.now()
        work()
        return self.now() - start


def padded_to(width: int, model: MultiTask) -> MultiTask:
    """The model with rows padded to `width` tokens at least (0: to the longest of a batch)."""
    backbone = model.backbone

    def padded(batch: Batch, layer: Layer | None = None, masks: Masks | None = None) -> torch.Tensor:
        # The same weights; rows side by side with padding, instead of one after the other.
        return backbone.padded(batch, layer, width)  # inside `masks.of(batch)`, as the model calls it

    backbone.hidden_states = padded  # type: ignore[method-assign]
    return model


def backward(model: MultiTask, batch: Batch) -> None:
    model.zero_grad(set_to_none=True)
    model(batch)[0].backward()


def gradient_errors(packed: MultiTask, padded: MultiTask, batch: Batch) -> dict[str, float]:
    """Relative distances of all gradients together: of packed from padded rows, and of each from float64."""
    exact = copy.deepcopy(packed).double()
    of_packed, of_padded, of_exact = (_gradients(model, batch) for model in (packed, padded, exact))
    return {
        "packed_to_padded": _distance(of_packed, of_padded),
        "packed_to_float64": _distance(of_packed, of_exact),
        "padded_to_float64": _distance(of_padded, of_exact),
    }


def _gradients(model: MultiTask, batch: Batch) -> dict[str, torch.Tensor]:
    backward(model, batch)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return gradients


def _distance(computed: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    gap, total = 0.0, 0.0
    for name, gradient in expected.items():
        exact = gradient.double()
        gap += float((computed[name].double() - exact).square().sum())
        total += float(exact.square().sum())
    return (gap / total) ** 0.5


def padding_case(
    name: str, batches: list[list[Item]], width: int, ours: TrainingSetup, reference: TrainingSetup, clock: Clock
) -> Result:
    """Forward and backward of the same batches, packed and padded. The model and its trained vocabulary rows are the
    same on both sides."""
    device = ours.world.device
    made = [collated(ours, items).to(device) for items in batches]
    padded = padded_to(width, reference.model)
    # On the first batch only: float64 takes several times as long.
    errors = gradient_errors(ours.model, padded, made[0])
    if errors["packed_to_float64"] > 2 * errors["padded_to_float64"]:
        raise UserError(f"{name}: gradients of packed rows are worse than those of padded ones ({errors}): not timed")
    seconds: dict[str, list[float]] = {"packed": [], "padded": []}
    for batch in made:
        # In turn over each batch, so that a change of the machine's speed meets both.
        for side, model in (("packed", ours.model), ("padded", padded)):
            seconds[side].append(clock.of(partial(backward, model, batch)))
    real = sum(sum(batch.lengths) for batch in made)
    # Tokens that padded rows multiply, padding included.
    computed = sum(len(batch.lengths) * max(width, *batch.lengths) for batch in made)
    return {
        "case": f"padding: {name}",
        "batches": len(made),
        "real_tokens": real,
        "token_ratio": computed / real,
        "gradient_errors": errors,
        "seconds": seconds,
        "ratio": sum(seconds["padded"]) / sum(seconds["packed"]),
        "packed_tokens_per_s": real / sum(seconds["packed"]),
    }


def whole_step_case(
    name: str, batches: list[list[Item]], ours: TrainingSetup, plain: TrainingSetup, clock: Clock
) -> Result:
    """Whole optimiser steps on the same batches: our engine, and Hugging Face's Trainer with its own defaults."""
    seconds = {"ours": our_steps(ours, batches, clock), "hugging_face": hugging_face_steps(plain, batches, clock)}
    # The first step of each side also allocates and, on a GPU, compiles and tunes.
    totals = {side: sum(steps[1:]) for side, steps in seconds.items()}
    return {
        "case": f"step: {name}",
        "batches": len(batches) - 1,
        "seconds": seconds,
        "ratio": totals["hugging_face"] / totals["ours"],
        "examples_per_s": {side: BATCH * len(steps[1:]) / totals[side] for side, steps in seconds.items()},
    }


def our_steps(setup: TrainingSetup, batches: list[list[Item]], clock: Clock) -> list[float]:
    trainer = Trainer(setup)
    # Both trainers get the same batches; how ours would have drawn them is not what is compared.
    trainer.feed.mixture.step = lambda step: batches[step % len(batches)]  # type: ignore[method-assign]
    trainer.feed.mixture.total_steps = len(batches)
    seconds, progress = [], Progress()
    for _ in batches:
        seconds.append(clock.of(lambda: trainer.take_step(progress)))
        progress.step += 1
    # Its threads and the engine's memory would otherwise stand in the way of the next case.
    trainer.feed.close()
    destroy_engine(trainer.engine)
    return seconds


class AsHuggingFace(torch.nn.Module):
    """A model whose forward takes a collated batch and gives a loss, as Hugging Face's Trainer wants it."""

    def __init__(self, model: MultiTask) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, **unused: Any) -> dict[str, torch.Tensor]:
        return {"loss": self.model(batch.to(self.model.word_embedding.device))[0]}


def hugging_face_steps(setup: TrainingSetup, batches: list[list[Item]], clock: Clock) -> list[float]:
    """Seconds of each step from one step's end to the next, so that collating counts, as it does in ours."""
    from transformers import Trainer as HuggingFaceTrainer
    from transformers import TrainerCallback, TrainingArguments

    class Ends(TrainerCallback):
        # Time from here to the first step's end holds the Trainer's own preparation; that step is left out.
        marks = [clock.now()]

        def on_step_end(self, *unused: Any, **more: Any) -> None:
            self.marks.append(clock.now())

    class InOrder(HuggingFaceTrainer):
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            # Its sampler would shuffle; the batches are made already.
            return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    ends = Ends()
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            per_device_train_batch_size=BATCH,
            max_steps=len(batches),
            learning_rate=setup.setting.learning_rate,
            weight_decay=setup.setting.weight_decay,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=setup.world.device.type == "cpu",
            bf16=setup.engine_part.dtype == "bf16",
            # Items are tuples, whose columns the Trainer cannot know.
            remove_unused_columns=False,
        )
        InOrder(
            AsHuggingFace(padded_to(0, setup.model)),
            arguments,
            train_dataset=[item for b in batches for item in b],
            data_collator=lambda items: {"batch": collated(setup, items)},
            callbacks=[ends],
        ).train()
    return [b - a for a, b in zip(ends.marks, ends.marks[1:])]


def measurements(given: argparse.Namespace, folder: Path, world: World) -> Iterator[Result]:
    packed, sdpa = recipe_for(given, "packed", "touched"), recipe_for(given, "sdpa", "touched")
    ours, reference = setup_for(packed, folder, world), setup_for(sdpa, folder, world)
    # Heads begin with random weights: without this the two models would differ.
    reference.model.load_state_dict(ours.model.state_dict())
    for setup in (ours, reference):
        setup.model.to(world.device, torch.bfloat16 if given.dtype == "bf16" else torch.float32)
    draws, clock, n, longest = Draws(ours), Clock(world.device), given.batches, given.max_seq_length
    for name, batches, width in (
        ("nine tasks mixed, padded to the longest", draws.mixed(n), 0),
        ("one task a batch, padded to the longest", draws.by_task(2 * n), 0),
        ("nine tasks, grouped by length", draws.by_length(4 * n), 0),
        (f"nine tasks mixed, padded to {longest}", [draws.mixed(1)[0][:8]], longest),
        ("mnli alone, padded to the longest", draws.mixed(2 * n, "mnli"), 0),
    ):
        yield padding_case(name, batches, width, ours, reference, clock)
    # Not a dependency of training, so the comparison is left out by name rather than failing at the end.
    if find_spec("accelerate") is None:
        print("whole steps are not compared: Hugging Face's Trainer needs `pip install accelerate`", flush=True)
        return
    for name, batches in (
        ("nine tasks mixed", draws.mixed(n + 1)),
        ("grouped by length", draws.by_length(n + 1)),
        ("mnli alone", draws.mixed(n + 1, "mnli")),
    ):
        plain = setup_for(recipe_for(given, "sdpa", "all"), folder, world)
        yield whole_step_case(name, batches, setup_for(packed, folder, world), plain, clock)


def line(result: Result) -> str:
    """One measurement as text."""
    if result["case"].startswith("padding"):
        return (
            f"{result['case']}: {result['ratio']:.2f} times (tokens {result['token_ratio']:.2f} times), packed "
            f"{result['packed_tokens_per_s']:,.0f} tokens/s; gradients differ by "
            f"{result['gradient_errors']['packed_to_padded']:.1e}"
        )
    speed = result["examples_per_s"]
    return (
        f"{result['case']}: {result['ratio']:.2f} times ({speed['ours']:.2f} examples/s against "
        f"{speed['hugging_face']:.2f} with Hugging Face's Trainer)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="stilts bench training", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of an encoder")
    parser.add_argument("--intermediate", type=Path, required=True, help="folder of the nine tasks' files")
    parser.add_argument("--batches", type=int, default=3, help="batches of 32 examples; twice as many where cheap")
    parser.add_argument("--max-seq-length", type=int, default=512, help="most tokens in a row")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--out", type=Path, help="result file (.jsonl), appended to")
    given = parser.parse_args(argv)
    # What a launcher has set stays.
    os.environ.update({name: os.environ.get(name, value) for name, value in WHERE.items()})
    # One thread: with more, CPU seconds would count threads that wait for each other.
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    about = {
        "machine": machine(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dtype": given.dtype,
    }
    with tempfile.TemporaryDirectory() as scratch, joined("bench", 1800) as world:
        for result in measurements(given, Path(scratch), world):
            print(line(result), flush=True)
            if given.out:
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**result, **about}) + "\n")
    return 0
