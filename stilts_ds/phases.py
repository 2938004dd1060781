"""The story of a run, on every rank: for each phase of the plan, train -> export -> predict -> score.

Ranks find each other through torchrun's variables. `stilts_launcher.rank` starts this program for `stilts run` and for
batch jobs; torchrun may, too: `torchrun -m stilts_ds.phases RUN_DIR [PHASE_ID ...]`. Without phase ids, every phase of
the plan runs in order.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from stilts_ds.batches.collate import TaskRows
from stilts_ds.config import EnginePart, Recipe, written_recipe
from stilts_ds.data.data import Data, prepare_data
from stilts_ds.engine.energy import energy_counter
from stilts_ds.engine.loop import Job, Progress, train
from stilts_ds.engine.preempt import Stopped, install_handlers
from stilts_ds.engine.preflight import check_ranks
from stilts_ds.engine.stacks import write_stacks_to
from stilts_ds.engine.world import World, joined
from stilts_ds.errors import UserError, first_line, is_full_disk, redacted
from stilts_ds.evaluate.score_run import score_phase
from stilts_ds.evaluate.selection import dev_scores
from stilts_ds.evaluate.zero_shot import evaluate_phase
from stilts_ds.export import check_export, export_model
from stilts_ds.families.build import build_model
from stilts_ds.families.registry import family_of, get_family
from stilts_ds.model.encoder import load_encoder, quiet, read_language_head
from stilts_ds.model.heads import HeadSpec, set_language_head
from stilts_ds.model.multitask import MultiTask
from stilts_ds.model.vocabulary import narrow_vocabulary
from stilts_ds.model_files import longest_row, model_path, parameter_count
from stilts_ds.phase_status import PhaseStatus
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.rows.rows import Rows, touched_ids
from stilts_ds.run_dir import RunDir, hash_file, hash_json, provenance, write_json

log = logging.getLogger(__name__)


def run_phases(run: RunDir, wanted: list[str], only: str | None, world: World) -> None:
    """Run the wanted phases (all: []) of a planned run."""
    recipe = written_recipe(run.recipe)
    phases = Plan.load(run.plan).phases
    unknown = set(wanted) - {phase.id for phase in phases}
    if unknown:
        raise UserError(f"{run.plan} has no phase {sorted(unknown)[0]}")
    chosen = [phase for phase in phases if not wanted or phase.id in wanted]
    check_settings(recipe, chosen, world)
    check_ranks(world, run.root, bytes_to_write(recipe, chosen))
    data = Data(recipe, run.root)

    def look_at_files() -> None:
        run.check_links()
        for phase in chosen:
            run.phase(phase.id).read_status()
        prepare_data(data, chosen)

    first_on_rank_0(look_at_files, world)
    for number, phase in enumerate(chosen, start=1):
        if world.first:
            log.info("phase %d/%d: %s", number, len(chosen), phase.title)
        run_phase(run, recipe, phase, data, only, world)


def check_settings(recipe: Recipe, phases: list[Phase], world: World) -> None:
    """Refuse what cannot work before anything is paid for."""
    if recipe.engine.dtype == "fp16" and world.device.type == "cpu":
        raise UserError("engine.dtype=fp16 does not work on CPUs; use engine.dtype=fp32 or bf16")
    limit = longest_row(model_path(recipe.model.name_or_path))
    for phase in phases:
        if not phase.train:
            continue
        setting = phase.setting()
        longest = max(phase.setting(name).max_seq_length for name in phase.train)
        if limit is not None and longest > limit:
            raise UserError(f"{phase.title}: max_seq_length={longest}, but the model takes {limit} tokens")
        if setting.train_batch_size < world.size:
            raise UserError(
                f"{phase.title}: train_batch_size={setting.train_batch_size} is less than the {world.size} ranks"
            )


def bytes_to_write(recipe: Recipe, phases: list[Phase]) -> int:
    """Most bytes that training one of the phases keeps on disk at a time; 0 where the model's size is unknown.

    A checkpoint holds 12 bytes a parameter (weights and two moments in float32), one more stands beside the kept ones
    while it is written, and so does the exported model of 4 bytes a parameter.
    """
    parameters = parameter_count(model_path(recipe.model.name_or_path)) or 0
    kept = [phase.setting().save_total_limit + 1 for phase in phases if phase.train]
    return parameters * (12 * max(kept, default=0) + 8 * bool(kept))


def first_on_rank_0(work: Callable[[], None] | None, world: World) -> None:
    """Do `work` on rank 0 while the others wait; its UserError ends all of them alike."""
    message = None
    if world.first and work is not None:
        try:
            work()
        except UserError as problem:
            message = str(problem)
    message = world.broadcast(message)
    if message is not None:
        raise UserError(message)


def run_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, only: str | None, world: World) -> None:
    """One phase, resumed where it stands; its status file says how it went and what it cost."""
    folder = run.phase(phase.id)
    state, trained = world.broadcast((folder.status(), folder.is_trained()) if world.first else None)
    if world.first and state == "pending":
        write_json(folder.phase_json, {**phase.to_json(), "provenance": provenance().to_json()})
    world.barrier()
    cost = Cost(folder.read_status() if world.first else PhaseStatus(), world)

    def note(state: str, **details: Any) -> None:
        spent = cost.so_far()
        if world.first:
            folder.set_status(state, **spent, **details)

    try:
        if phase.train and not trained:
            if only == "evaluate":
                raise UserError(f"{phase.id} is not trained yet ({state}); `stilts run` trains it")
            note("running")
            best = train_phase(run, recipe, phase, data, world).chosen()
            note("trained", best=best, curve=hash_file(folder.metrics) if world.first else "")
        if world.first:  # the exported model is what later phases and evaluation need
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        if only == "train" and phase.evaluate:
            return
        if phase.evaluate:
            evaluate_phase(run, recipe, phase, data, world)
            first_on_rank_0(lambda: score_phase(run, recipe, phase, data), world)
        note("done")
    except Stopped as stopped:
        note(f"stopped:{stopped}")
        raise
    except Exception as problem:
        if world.first:
            with suppress(OSError):  # a full disk must not hide what failed
                error = redacted(f"{type(problem).__name__}: {problem}")
                folder.set_status("failed", **cost.of_this_rank(), error=error)
        raise


class Cost:
    """What a phase has cost over all its starts that ended by themselves or were stopped: seconds of wall time, and
    joules of all GPUs if every start and rank could read them."""

    def __init__(self, before: PhaseStatus, world: World) -> None:
        self.world, self.started = world, time.time()
        self.seconds = before.seconds or 0.0
        whole = before.state.startswith(("stopped:", "done"))  # not killed, not failed
        self.joules: float | None = 0.0 if before.pending else before.joules if whole else None
        self.counter = energy_counter(world.device)
        self.counted = self.counter()

    def of_this_rank(self) -> dict[str, Any]:
        return {"seconds": round(self.seconds + time.time() - self.started, 1), "world_size": self.world.size}

    def so_far(self) -> dict[str, Any]:
        """For the status file, on rank 0 (a collective)."""
        now = self.counter()
        used = self.world.gather(None if now is None or self.counted is None else now - self.counted)
        told = self.joules is not None and None not in used
        return {**self.of_this_rank(), **({"joules": round(self.joules + sum(used), 1)} if told else {})}


def train_phase(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> Progress:
    """Train one phase from the pretrained model or an earlier phase's encoder, with new heads.

    Returns where training ended and which model it kept.
    """
    progress = train(phase_job(run, recipe, phase, data, world))
    if world.first:
        log.info(
            "%s: best dev score %.2f at step %d of %d", phase.id, progress.best_score, progress.best_step, progress.step
        )
    release_memory()
    return progress


def release_memory() -> None:
    """Give back the engine's buffers before the next phase allocates its own.

    Steps of ever other sizes leave glibc's heap full of holes, gigabytes in the end, which only `malloc_trim` returns.
    """
    gc.collect()
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def phase_job(run: RunDir, recipe: Recipe, phase: Phase, data: Data, world: World) -> Job:
    """The model, rows and settings of a phase's training; makes its folder. A collective.

    Heads are new, but for a pretrained language model's.
    """
    setting, folder = phase.setting(), run.phase(phase.id)
    tasks = {name: data.task(name) for name in phase.train}
    specs = head_specs(phase, data)
    torch.manual_seed(phase.seed)  # new heads
    source = str(run.phase(phase.init).encoder) if phase.init else model_path(recipe.model.name_or_path)
    if phase.init:
        check_export(run.phase(phase.init))
    encoder = load_encoder(source, recipe.model, None if phase.init else recipe.model.revision)
    rows = {
        name: TaskRows(name, i, family_of(tasks[name]), tasks[name].head_name, train_rows(data, name, phase))
        for i, name in enumerate(sorted(phase.train))
    }
    over_vocabulary = any(get_family(spec.family).trained.ties_embeddings for spec in specs)
    if recipe.engine.vocabulary_rows == "touched" and not over_vocabulary:
        train_touched_rows(encoder, [task.rows for task in rows.values()], phase, data, world)
    lineage = {"init": source, "phase": phase.to_json(), "provenance": provenance().to_json()}
    model = build_model(encoder, specs, len(rows))
    load_language_head(model, phase, source, recipe, world)
    folder.root.mkdir(parents=True, exist_ok=True)
    return Job(
        title=phase.id,
        model=model,
        tokenizer=data.tokenizer,
        tasks=rows,
        setting=setting,
        sampling=recipe.sampling,
        engine_part=recipe.engine,
        seed=phase.seed,
        folder=folder,
        tensorboard=run.tensorboard / phase.id,
        world=world,
        evaluate=lambda forward: dev_scores(forward, tasks, data, phase, world),
        export=lambda parameters, step: export_model(
            folder, encoder, data.tokenizer, specs, parameters, {**lineage, "step": step}
        ),
    )


def load_language_head(model: MultiTask, phase: Phase, source: str, recipe: Recipe, world: World) -> None:
    """Give masked language modelling the head that the checkpoint was pretrained with, where it has one."""
    for spec in model.specs.values():
        if not model.head(spec.name).ties_embeddings:
            continue
        found = read_language_head(source, None if phase.init else recipe.model.revision)
        if found is not None:
            set_language_head(model.heads[spec.name], found, source)
        if world.first:
            log.info("%s: the language modelling head %s", phase.id, f"of {source} goes on" if found else
                     f"is new: {source} has none")


def train_touched_rows(
    encoder: Any, train: list[Rows], phase: Phase, data: Data, world: World
) -> None:
    """Leave only the vocabulary rows that the phase's train and dev data hold in the encoder."""
    dev = [data.dev(name, phase.setting(name)).rows(phase.setting(name)) for name in phase.train]
    size = int(encoder.config.vocab_size)
    ids = touched_ids([*train, *dev], data.tokenizer.special, size)
    narrow_vocabulary(encoder, ids, keep_rest=world.first)
    if world.first:
        log.info("%s: %d of %d vocabulary rows are in its data and train", phase.id, len(ids), size)


def train_rows(data: Data, name: str, phase: Phase) -> Rows:
    """The rows that a phase trains one of its tasks on."""
    setting = phase.setting(name)
    return data.train(name, setting).rows(setting)


def head_specs(phase: Phase, data: Data) -> list[HeadSpec]:
    """The heads of a phase: one for each label space among its training tasks."""
    specs: dict[str, HeadSpec] = {}
    for name in sorted(phase.train):
        task, rows = data.task(name), train_rows(data, name, phase)
        width = int(rows.items[1] - rows.items[0])  # the choices of a question; 1 where an item is one row
        labels = data.labels(name) if family_of(task).labelled else ()
        spec = HeadSpec(task.head_name, task.family, tuple(labels), width)
        if specs.setdefault(spec.name, spec) != spec:
            raise UserError(f"tasks of head {spec.name!r} disagree on its labels; give them heads of their own")
    return list(specs.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stilts_ds.phases", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("phases", nargs="*", help="phase ids; default: all")
    parser.add_argument("--only", choices=["train", "evaluate"], help="do only this part of each phase")
    given = parser.parse_args(arguments)
    return run_ranks(RunDir(given.run_dir), given.phases, given.only)


def run_ranks(run: RunDir, wanted: list[str], only: str | None = None, before: Callable[[], None] | None = None) -> int:
    """Join the other ranks and run phases; rank 0 calls `before` first. Returns the exit status: 0 done, 2 the user
    can mend it, 85 stopped by a signal with everything saved."""
    rank = int(os.environ.get("RANK", "0"))
    install_handlers()
    set_up_logging(run.logs / wanted[0] if len(wanted) == 1 else run.logs)
    quiet()
    token = hash_json([str(run.root.resolve()), os.environ.get("STILTS_RUN_TOKEN", "")])
    try:
        patience = int(os.environ.get("STILTS_COLLECTIVE_TIMEOUT", EnginePart().collective_timeout))
        with joined(token, patience) as world:
            try:
                first_on_rank_0(before, world)
                run_phases(run, wanted, only, world)
            except RuntimeError as problem:
                raise RuntimeError(f"{problem}{world.who_is_missing()}") from problem
    except Stopped as stopped:
        log.warning("stopped by %s; everything is saved, the same command continues", stopped)
        return 85
    except UserError as problem:
        if rank == 0:
            print(f"error: {problem}", file=sys.stderr, flush=True)
        return 2
    except Exception as problem:
        log.exception("rank %d failed", rank)
        if is_full_disk(problem):
            print(f"error: the disk of {run.root} is full; free some space, and the same command continues",
                  file=sys.stderr, flush=True)
        if rank > 0:  # rank 0 has told on the terminal already
            print(
                f"rank {rank}: {redacted(first_line(problem))[:200]} (all of it: {run.logs})",
                file=sys.stderr,
                flush=True,
            )
        return 1
    return 0


class Redacting(logging.Formatter):
    """Lines and tracebacks without the user's tokens: a library may put an address with a token into an error."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


class LogFile(logging.FileHandler):
    """A rank's log. On a full disk its lines are lost without a traceback for each: the run is about to end and to say
    why on the terminal."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (the name is the base class's)
        if not is_full_disk(sys.exc_info()[1]):
            super().handleError(record)


def set_up_logging(folder: Path) -> None:
    """A file for each rank in `folder` (a phase run alone has its own folder); rank 0 also speaks on the terminal."""
    rank = os.environ.get("RANK", "0")
    folder.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [LogFile(folder / f"rank-{rank}.log", encoding="utf-8")]
    write_stacks_to(folder / f"rank-{rank}.log")
    if rank == "0":
        handlers.append(logging.StreamHandler())
    logging.basicConfig(
        level=logging.INFO, handlers=handlers, force=True
    )
    for handler in handlers:
        handler.setFormatter(Redacting("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    # torch renames collectives that DeepSpeed still calls by their old names, once a call.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    for noisy in ("DeepSpeed", "transformers", "torch", "datasets"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("stilts_ds.data.reader").setLevel(logging.WARNING)  # what was read is told once, by prepare
    for name in ("stilts_ds", "__main__"):
        logging.getLogger(name).setLevel(logging.INFO)


if __name__ == "__main__":
    sys.exit(main())
