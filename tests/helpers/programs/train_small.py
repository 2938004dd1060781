"""Train the small model: `train_small.py OUT SETTINGS_JSON`. Rank 0 writes losses, norms and final parameters.

"stage": -1 is the reference: one process, plain torch, the whole global batch at once, no DeepSpeed.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import small

from stilts_ds.batches.collate import Collator, TaskRows
from stilts_ds.batches.mixture import Mixture
from stilts_ds.config import EnginePart, SamplingPart, TrainingPart
from stilts_ds.engine.optim import learning_rate
from stilts_ds.engine.preempt import Stopped, install_handlers
from stilts_ds.families.registry import pool_size
from stilts_ds.model.disturb import first_disturbance
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.robust import passes_of
from stilts_ds.rows.batch import Batch
from stilts_ds.rows.rows import touched_ids
from stilts_ds.run_dir import PhaseDir, hash_file, write_sealed
from stilts_ds.trackers import Tracking

LINEAR = torch.nn.functional.linear


def reference(
    out: Path,
    setting: TrainingPart,
    sampling: SamplingPart,
    seed: int,
    model: MultiTask,
    tasks: dict[str, TaskRows],
    bad_step: int | None,
) -> None:
    from stilts_ds.engine.zero import parameter_groups

    optimizer = torch.optim.AdamW(parameter_groups(model, setting.weight_decay), eps=setting.adam_epsilon)
    mixture = Mixture({n: len(t.rows) for n, t in tasks.items()}, setting, sampling, seed)
    pool = pool_size((task.family for task in tasks.values()), setting)
    collate = Collator(tasks, small.tokenizer_stub(), setting.mlm_probability, seed, pool)
    curve = []
    for step in range(mixture.total_steps):
        items = mixture.step(step)
        counts = {}
        for name, item in items:
            task = tasks[name]
            terms = task.target_count(item, setting.mlm_probability)
            shown, total = counts.get(name, (0, 0))
            counts[name] = (shown + 1, total + terms)
        weights = {name: shown / len(items) / total for name, (shown, total) in counts.items()}
        batch = collate([(i, *item) for i, item in enumerate(items)], step, weights)
        model.train()
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        loss = reference_passes(model, batch, setting)
        if setting.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), setting.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, mixture.total_steps, setting)
        if step != bad_step:
            optimizer.step()
        curve.append(math.nan if step == bad_step else loss.item())
    torch.save({"curve": curve, "parameters": dict(model.named_parameters())}, out)


def reference_passes(model: MultiTask, batch: Batch, setting: TrainingPart) -> torch.Tensor:
    """The mean loss over the disturbances of the global batch, with its gradients; one row after the other, as FreeLB
    is written down."""
    robust = setting.robust
    delta = first_disturbance(robust, batch, model.backbone.embedding_width)
    passes = passes_of(robust)
    losses = []
    for number in range(passes):
        if delta is not None:
            batch.disturbance = delta = delta.detach().requires_grad_()
        loss, _, _ = model(batch)
        (loss / passes).backward()
        losses.append(loss.detach())
        if number + 1 == passes:
            break
        moved = []
        for before, gradient in zip(delta.detach().split(batch.lengths), delta.grad.split(batch.lengths)):
            after = before + robust.step_size * gradient / gradient.norm().clamp_min(1e-30)
            if robust.radius is not None and after.norm() > robust.radius:
                after = after * (robust.radius / after.norm())
            moved.append(after)
        delta = torch.cat(moved)
    return torch.stack(losses).mean()


def stop_after(steps: int) -> None:
    """Have this process asked to stop when `steps` steps are done; ranks then ask each other after every step."""
    from stilts_ds.engine import preempt
    from stilts_ds.engine.trainer import Trainer

    preempt.ASKING_SECONDS = 0.0
    whole_step = Trainer.take_step

    def step(self: Trainer, progress: Any) -> None:
        whole_step(self, progress)
        if progress.step + 1 == steps < self.mixture.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    Trainer.take_step = step  # type: ignore[method-assign]


def keep_masters(out: Path) -> None:
    """Write down the weights that Adam works on before the first step."""
    from stilts_ds.engine.trainer import Trainer
    from stilts_ds.engine.zero_state import full_parameters

    whole_step = Trainer.take_step

    def step(self: Trainer, progress: Any) -> None:
        if progress.step == 0 and (masters := full_parameters(self.engine)):
            torch.save(masters, out.parent / "masters.pt")
        whole_step(self, progress)

    Trainer.take_step = step  # type: ignore[method-assign]


def spoil(model: MultiTask, bad_step: int) -> None:
    """Have this rank's losses be NaN in one step."""
    from stilts_ds.engine.trainer import Trainer

    whole_step = Trainer.take_step

    def step(self: Trainer, progress: Any) -> None:
        bad = progress.step == bad_step
        hook = model.register_forward_hook(lambda module, inputs, out: (out[0] * math.nan, *out[1:])) if bad else None
        whole_step(self, progress)
        if hook:
            hook.remove()

    Trainer.take_step = step  # type: ignore[method-assign]


class NoWaiting(TorchDispatchMode):
    """Fails on what has a host wait for a GPU: reading a value, shapes that depend on values, copying a constant."""

    READING = (
        "_local_scalar_dense",
        "is_nonzero",
        "nonzero",
        "masked_select",
        "unique",
        "equal",
        "repeat_interleave",
        "lift_fresh",
    )  # the last is torch.tensor(number): a copy from the host that the host waits for

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        masked = name in ("index", "index_put", "index_put_") and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        sized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is not None
        if (name in self.READING and not sized) or masked:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


class NoCopying(TorchFunctionMode):
    """Fails on copies to the host that are none where the host is the device."""

    COPIES = ("cpu", "numpy", "tolist", "__array__")

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in self.COPIES:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


def forbid_waiting() -> None:
    """In every step but the first two, in which DeepSpeed's stage 3 compares the order of layers among ranks.
    Evaluating, logging and saving may wait."""
    from stilts_ds.engine.trainer import Trainer

    whole_step = Trainer.take_step

    def step(self: Trainer, progress: Any) -> None:
        watched = progress.step > 1
        with NoWaiting() if watched else nullcontext(), NoCopying() if watched else nullcontext():
            whole_step(self, progress)

    Trainer.take_step = step  # type: ignore[method-assign]


def on_streams(out: Path, rank: str, ordered: bool) -> Callable[[], None]:
    """Train as on a GPU with streams; the returned function writes down in which places a step (from the third on) has
    the host wait, and what races. Not `ordered`: without the order that our own code keeps."""
    import streams

    from stilts_ds.engine.streams import Streams
    from stilts_ds.engine.trainer import Trainer

    races, waits = streams.Races(), Counter()
    streams.pretend(races)
    if not ordered:
        Streams.order = lambda self, *_: None  # type: ignore[method-assign]
    whole_step = Trainer.take_step

    def step(self: Trainer, progress: Any) -> None:
        streams.DEVICE.waits.clear()
        whole_step(self, progress)
        if progress.step > 1:
            waits.update(streams.DEVICE.waits)

    def write() -> None:
        races.__exit__(None, None, None)
        theirs = len(streams.DEVICE.streams) - 1 - len(streams.DEVICE.of_group)
        found = {"streams": theirs, "waits": waits, "races": races.found}
        (out.parent / f"streams-{rank}.json").write_text(json.dumps(found))

    Trainer.take_step = step  # type: ignore[method-assign]
    races.__enter__()
    return write


def tell_whether_weights_change() -> None:
    """Print it after every step, also after the one that ends the run."""
    from stilts_ds.engine.trainer import Trainer
    from stilts_ds.engine.zero_state import full_parameters

    whole_update = Trainer._update

    def update(self: Trainer) -> torch.Tensor:
        before = full_parameters(self.engine)
        try:
            return whole_update(self)
        finally:
            after = full_parameters(self.engine)
            print("weights", "kept" if all(torch.equal(before[n], after[n]) for n in before) else "changed", flush=True)

    Trainer._update = update  # type: ignore[method-assign]


def asked_to_stop(forward: Any) -> dict[str, float]:
    raise Stopped("SIGTERM")


def no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def main() -> None:
    out, given = Path(sys.argv[1]), json.loads(sys.argv[2])
    setting = TrainingPart(**given.get("training", {}))
    sampling = SamplingPart(**given.get("sampling", {}))
    stage, seed = given["stage"], given.get("seed", 3)
    every = small.RANKED if given.get("ranked") else small.SPECS
    every = small.CODED if given.get("coded") else every
    specs = [spec for spec in every if spec.name not in given.get("without", [])]
    model = small.model(dropout=given.get("dropout", 0.0), specs=specs, vocabulary=given.get("vocabulary", 60))
    tasks = small.tasks(specs)
    if given.get("ranked"):  # a new model gives all texts nearly one vector: their scores would be all alike
        for weight in (parameter for parameter in model.encoder.parameters() if parameter.dim() > 1):
            weight.data *= 10
    if stage < 0:
        model = model.double() if given.get("double") else model
        return reference(out, setting, sampling, seed, model, tasks, given.get("bad_step"))
    from stilts_ds.engine import preempt, saver
    from stilts_ds.engine.loop import train
    from stilts_ds.engine.training_setup import TrainingSetup
    from stilts_ds.engine.world import joined

    install_handlers()
    if "stop_at" in given:
        stop_after(given["stop_at"])
    if "frozen_clock" in given:  # a save at every step is looked for
        preempt.ASKING_SECONDS = 0.0
    if os.environ["RANK"] == str(given.get("frozen_clock")):
        saver.Saver.overdue = lambda self, minutes: False  # type: ignore[method-assign]
    if os.environ["RANK"] == str(given.get("full_disk")):
        saver.write_shard = no_space
    final: dict[str, torch.Tensor] = {}
    scores = itertools.count(1.0) if given.get("rising") else itertools.repeat(1.0)

    def evaluate(forward: Any) -> dict[str, float]:
        forward(Collator(tasks, small.tokenizer_stub(), 0.15, seed)([(i, "nli", i) for i in range(3)], 0, {"nli": 1.0}))
        return {"selection": next(scores)}

    def export(parameters: dict[str, torch.Tensor], step: int) -> None:
        final.update(parameters)
        best = PhaseDir(setup.folder.best(step))
        best.root.mkdir(parents=True)  # no earlier one may lie there
        save_file({name: value.contiguous() for name, value in parameters.items()}, best.heads)
        write_sealed(best.heads_json, {"step": step, "files": {best.heads.name: hash_file(best.heads)}})

    with joined("test", 60) as world:
        if given.get("touched"):
            special = small.tokenizer_stub().special
            ids = touched_ids([task.rows for task in tasks.values()], special, given["vocabulary"])
            narrow_vocabulary(model.encoder, ids, keep_rest=world.first)
        setup = TrainingSetup(
            title="small",
            model=model,
            tokenizer=small.tokenizer_stub(),
            tasks=tasks,
            setting=setting,
            sampling=sampling,
            engine_part=EnginePart(zero_stage=stage, **given.get("engine", {})),
            seed=seed,
            folder=PhaseDir(out.parent / "phase"),
            tracking=Tracking(out.parent / "tensorboard"),
            world=world,
            evaluate=asked_to_stop if given.get("stop_in_evaluation") else evaluate,
            export=export,
        )
        setup.folder.root.mkdir(parents=True, exist_ok=True)
        if given.get("nan_rank") == world.rank:
            setup.model.register_forward_hook(lambda module, inputs, out: (out[0] * math.nan, *out[1:]))
        if "bad_step" in given and world.rank == world.size - 1:
            spoil(setup.model, given["bad_step"])
        if given.get("masters"):
            keep_masters(out)
        if given.get("no_waiting"):
            forbid_waiting()
        if "nan_rank" in given:
            tell_whether_weights_change()
        if given.get("poison"):
            setup.model.heads["nli"].out_proj.weight.data[0, 0] = float("inf")
        write = on_streams(out, os.environ["RANK"], given["ordered"]) if "ordered" in given else lambda: None
        try:
            train(setup)
            write()
        except Stopped as stopped:
            print("stopped by", stopped)
            return
        if world.first:
            lines = [json.loads(line) for line in setup.folder.metrics.read_text().splitlines()]
            curve = [line["train/loss"] for line in lines if "train/loss" in line]
            norms = [line["train/grad_norm"] for line in lines if "train/loss" in line]
            bad = [number for number, norm in enumerate(norms) if not math.isfinite(norm)]
            assert bad == ([given["bad_step"]] if "bad_step" in given else [])
            found = {"curve": curve, "norms": norms, "parameters": final}
            compiler = "torch._inductor.compile_fx" in sys.modules
            torch.save({**found, "linear": torch.nn.functional.linear is LINEAR, "compiler": compiler}, out)


main()
