"""The training loop of one phase: what happens in which order. A step itself is trainer.py's."""

from __future__ import annotations

from functools import partial

from stilts_ds.engine import checkpoint
from stilts_ds.engine.preempt import Asking, Stopped
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.trainer import Trainer
from stilts_ds.engine.training_setup import TrainingSetup


def train(setup: TrainingSetup) -> Progress:
    """Train to the end (or to an early stop), leaving the best model on English dev beside the checkpoints, named by
    the progress that is returned. Resumes by itself.

    Raises Stopped after saving when a signal asked for it; UserError when losses or gradients stay non-finite.
    """
    saved, lineage = checkpoint.find(setup.folder.checkpoints, setup.world)
    if saved is not None:
        # Before the engine shards it, and casts it with lower precision; it has the other ranks' weights from rank 0.
        setup.world.on_rank_0(partial(saved.weights_into, setup.model))
    trainer = Trainer(setup, lineage)
    progress = trainer.resume(saved)
    total = trainer.mixture.total_steps
    asking = Asking(setup.world, prompt=True)
    try:
        trainer.select_if_due(progress)  # a stop may have come while dev was being evaluated
        while progress.step < total and progress.since_best < setup.setting.early_stopping_patience:
            trainer.take_step(progress)
            progress.step += 1
            if progress.step % setup.setting.logging_steps == 0 or progress.step == total:
                trainer.flush(progress)
            trainer.select_if_due(progress)
            if trainer.due(progress.step, setup.setting.save_steps):
                trainer.save(progress)
            if asking.stop_or_save(trainer.saver.overdue(setup.setting.save_minutes)):
                trainer.save(progress)
        trainer.saver.wait()
    except Stopped:
        trainer.save(progress)
        trainer.saver.wait()
        raise
    finally:
        trainer.close()
    return progress
