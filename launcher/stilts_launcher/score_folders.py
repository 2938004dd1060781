"""`stilts score --predictions DIR --labels DIR`: scores of any folders in the submission layout, without a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from stilts_ds.errors import UserError
from stilts_launcher.execute import score_files


def add_arguments(part: argparse.ArgumentParser) -> None:
    """What `stilts score` takes in place of a run."""
    part.add_argument("--predictions", type=Path, help="folder <task>/<split>-<language>.tsv|json")
    part.add_argument("--labels", type=Path, help="folder of the same layout")
    part.add_argument("--verdicts", type=Path, nargs="+", help="file of `stilts execute`; two are compared")
    part.add_argument("--split", default="test", choices=["dev", "test"], help="split to read (default: test)")
    part.add_argument("--benchmark", choices=["xtreme", "xtreme-r"], help="all of its tasks, missing ones named")
    part.add_argument("--output", type=Path, help="also write scores.json, .csv and .md into this folder")


def score_folders(given: argparse.Namespace) -> str:
    """The scores of a predictions folder against a labels folder, or of verdicts; also written into files where
    `--output` says."""
    if given.verdicts:
        return score_files(*given.verdicts)
    from stilts_ds.evaluate.score import score_folder
    from stilts_ds.evaluate.score_tables import scores_markdown, write_scores
    from stilts_ds.tasks.benchmarks import XTREME, get_benchmark
    from stilts_ds.tasks.registry import TASKS, tasks_named

    if given.predictions is None or given.labels is None:
        raise UserError("give a run folder, or both --predictions and --labels")
    benchmark = get_benchmark(given.benchmark or XTREME.name)
    if given.benchmark is None:
        tasks = tasks_named(path.name for path in given.labels.glob("*") if path.is_dir())
    else:
        tasks = {name: benchmark.fitted(TASKS[name]) for name in benchmark.tasks}
    if not any((given.labels / name).is_dir() for name in tasks):
        raise UserError(f"{given.labels} has no folder named after a task; see `stilts tasks`")
    scores = score_folder(
        given.predictions, given.labels, given.split, tasks, benchmark=benchmark, qa_by_f1=given.qa_f1
    )
    if given.output:
        write_scores(given.output, scores, tasks)
    return scores_markdown(scores, tasks)
