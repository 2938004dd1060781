"""`stilts score --predictions DIR --labels DIR`: scores of any folders in the submission layout, without a run."""

from __future__ import annotations

import argparse

from stilts_ds.errors import UserError
from stilts_launcher.execute import score_files


def score_folders(given: argparse.Namespace) -> str:
    """The scores of a predictions folder against a labels folder, or of verdicts; also written into files where
    `--output` says."""
    if given.run_dir is not None:
        raise UserError("--verdicts and --perturbed are files of `stilts execute`, and no run is read: leave it out")
    # Asked before --verdicts alone, which is here the baseline and not a file to score.
    if given.perturbed:
        return _robustness(given)
    if given.verdicts:
        return score_files(*given.verdicts)
    # Imported only now: verdicts are scored without any of it.
    from stilts_ds.evaluate.score import score_folder, tasks_to_score
    from stilts_ds.evaluate.score_tables import scores_markdown, write_scores

    if given.predictions is None or given.labels is None:
        raise UserError("give a run folder, or both --predictions and --labels")
    tasks, benchmark = tasks_to_score(given.labels, given.benchmark)
    scores = score_folder(
        given.predictions, given.labels, given.split, tasks, benchmark=benchmark, qa_by_f1=given.qa_f1
    )
    if given.output:
        write_scores(given.output, scores, tasks)
    return scores_markdown(scores, tasks)


def _robustness(given: argparse.Namespace) -> str:
    """RP@k, RD@k and RR@k of verdicts on perturbed prompts (ReCode) beside those on the prompts as they are."""
    from stilts_ds.evaluate.recode_files import robustness_of_files, robustness_table

    if not given.verdicts or len(given.verdicts) != 1:
        raise UserError("--perturbed needs --verdicts with one file: that of the prompts as they are")
    return robustness_table(robustness_of_files(given.verdicts[0], given.perturbed), len(given.perturbed))
