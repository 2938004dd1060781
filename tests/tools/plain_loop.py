"""Train a run's phases by a plain loop in place of the engine: torch's AdamW, each batch at once, one process, no
DeepSpeed.

    stilts plan toy_retrieval name=plain launch.nproc=1 data.cache=FOLDER
    python tests/tools/plain_loop.py runs/plain

It shares model, mixture and batches with the engine, and nothing of a step: passes, clipping and the update are torch's
own. Every phase's curve, encoder and scores then stand where `stilts run` puts them, so two runs can be compared
number by number. It saves no checkpoints, chooses no step (the last one is kept) and is for one rank in float32.
"""

from __future__ import annotations

import json
import sys

import torch
from stilts_launcher.rank import main

from stilts_ds import phase_setup
from stilts_ds.batches.collate import Collator
from stilts_ds.batches.feed import Feed
from stilts_ds.batches.mixture import Mixture
from stilts_ds.engine.optim import learning_rate
from stilts_ds.engine.progress import SELECTION, Progress
from stilts_ds.engine.training_setup import TrainingSetup
from stilts_ds.engine.zero import parameter_groups
from stilts_ds.model.vocabulary import widen


def train(setup: TrainingSetup) -> Progress:
    """All steps of a phase; exports the last one's model and returns where training ended."""
    assert setup.world.size == 1 and setup.engine_part.dtype == "fp32", "the plain loop is for one rank in float32"
    model, setting = setup.model, setup.setting
    sizes = {name: len(task.rows) for name, task in setup.tasks.items()}
    groups = {name: task.groups for name, task in setup.tasks.items() if task.groups is not None}
    mixture = Mixture(sizes, setting, setup.sampling, setup.seed, groups)
    collate = Collator(setup.tasks, setup.tokenizer, setting.mlm_probability, setup.seed)
    feed = Feed(mixture, collate, micro_batches=1, rank=0, world_size=1, packed=model.packs)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, setting.weight_decay),
        betas=(setting.adam_beta1, setting.adam_beta2),
        eps=setting.adam_epsilon,
    )
    progress, curve = Progress(), []
    for step in range(mixture.total_steps):
        [(batch, _)] = feed(step).batches
        rate = learning_rate(step, mixture.total_steps, setting)
        for group in optimizer.param_groups:
            group["lr"] = rate
        model.train()
        optimizer.zero_grad()
        loss, _, _ = model(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), setting.max_grad_norm)
        optimizer.step()
        # Vocabulary rows that no batch has are not in the optimiser, and decay all the same.
        progress.decay *= 1 - rate * setting.weight_decay
        progress.step = step + 1
        curve.append({"step": progress.step, "train/loss": loss.item(), "train/grad_norm": norm.item()})
    feed.close()
    model.eval()
    with torch.no_grad():
        scores = setup.evaluate(model)
    progress.record_evaluation(scores)
    curve.append({"step": progress.step, SELECTION: scores[SELECTION]})
    setup.folder.metrics.write_text("".join(f"{json.dumps(record)}\n" for record in curve))
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    setup.export(widen(model, parameters, progress.decay), progress.step)
    return progress


if __name__ == "__main__":
    phase_setup.train = train
    sys.exit(main(sys.argv[1:]))
