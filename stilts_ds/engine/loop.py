"""The training loop of one phase: what happens in which order. A step itself is trainer.py's."""

from __future__ import annotations

from stilts_ds.engine import checkpoint
from stilts_ds.engine.job import TrainingJob
from stilts_ds.engine.preempt import Stopped, stop_or_save
from stilts_ds.engine.progress import Progress
from stilts_ds.engine.trainer import Trainer


def train(job: TrainingJob) -> Progress:
    """Train to the end (or to an early stop), leaving the best model on English dev exported. Resumes by itself.

    Raises Stopped after saving when a signal asked for it; UserError when losses or gradients stay non-finite.
    """
    found = checkpoint.find(job.folder.checkpoints, job.world)
    if found is not None:
        found.weights_into(job.model)  # before the engine shards it, and casts it with lower precision
    trainer = Trainer(job)
    progress = trainer.resume(found)
    total = trainer.mixture.total_steps
    try:
        trainer.select_if_due(progress)  # a stop may have come while dev was being evaluated
        while progress.step < total and progress.since_best < job.setting.early_stopping_patience:
            trainer.take_step(progress)
            progress.step += 1
            if progress.step % job.setting.logging_steps == 0 or progress.step == total:
                trainer.flush(progress)
            trainer.select_if_due(progress)
            if trainer.due(progress.step, job.setting.save_steps):
                trainer.save(progress)
            if stop_or_save(job.world, trainer.saver.overdue(job.setting.save_minutes)):
                trainer.save(progress)
        trainer.saver.wait()
    except Stopped:
        trainer.save(progress)
        trainer.saver.wait()
        raise
    finally:
        trainer.close()
    return progress
