"""Which phase answers each target in a submission: those of one condition, or of each target's best on English dev."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from stilts_ds.errors import UserError, did_you_mean
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.run_dir import RunDir

NAMED = "named"
OWN_DEV = "best English dev score of its training task"
OTHERS_DEV = "best mean of the other targets' English dev scores, since it has none itself"


@dataclass(frozen=True)
class ChosenPhase:
    """The phase whose predictions of a target are sent. `seed` is None where nothing was drawn at random.

    `dev_score` is the phase's own on English dev, in percent; None where it trained nothing (retrieval).
    """

    condition: str
    seed: int | None
    phase: Phase
    dev_score: float | None
    chosen_by: str


def choose_seed(plan: Plan, seed: int | None) -> int:
    """The seed to submit. Raises UserError where the run has several and none is named: they are not alike."""
    seeds = ", ".join(map(str, plan.seeds))
    if seed is None and len(plan.seeds) > 1:
        raise UserError(f"the run has the seeds {seeds}; name the one to submit with --seed")
    if seed is not None and seed not in plan.seeds:
        raise UserError(f"the run has no seed {seed}; it has {seeds}")
    return plan.seeds[0] if seed is None else seed


def choose_condition(run: RunDir, plan: Plan, condition: str | None, seed: int) -> dict[str, ChosenPhase]:
    """Every target after one condition; the last one of the recipe if none is named."""
    # The last: recipes usually begin with the baseline.
    chosen = condition or list(plan.use)[-1]
    if chosen not in plan.use:
        raise UserError(f"the run has no condition {chosen!r}{did_you_mean(chosen, plan.use)}")
    return {target: _choice(run, plan, chosen, target, seed, NAMED) for target in plan.targets}


def choose_best(run: RunDir, plan: Plan, seed: int) -> dict[str, ChosenPhase]:
    """Every target after the condition that is best on English dev; of equals the first in the recipe's order.

    The scores are those of the models that are sent. Targets that train nothing have no dev score: the condition with
    the best mean over the other targets is taken. No test score takes part. Raises UserError where a score is missing.
    """
    scores = {condition: _dev_scores(run, plan, condition, seed) for condition in plan.use}
    trained = list(next(iter(scores.values())))
    if not trained:
        raise UserError("no target of the run is trained, so none has an English dev score; name a --condition")
    # Only over trained targets, the same ones in every condition.
    overall = _best({condition: fmean(by_target.values()) for condition, by_target in scores.items()})
    chosen = {}
    for target in plan.targets:
        if target in trained:
            best = _best({condition: by_target[target] for condition, by_target in scores.items()})
            chosen[target] = _choice(run, plan, best, target, seed, OWN_DEV)
        else:
            chosen[target] = _choice(run, plan, overall, target, seed, OTHERS_DEV)
    return chosen


def _best(scores: Mapping[str, float]) -> str:
    # max takes the first of equals: the recipe's order decides, not chance.
    return max(scores, key=lambda condition: scores[condition])


def _dev_scores(run: RunDir, plan: Plan, condition: str, seed: int) -> dict[str, float]:
    """English dev scores of the targets that are trained."""
    scores = {}
    for target in plan.targets:
        phase = _phase(plan, condition, target, seed)
        if phase.train:
            score = _dev_score(run, phase)
            if score is None:
                state = run.phase(phase.id).read_status().state
                problem = f"the phase `{phase.title}`, which is {state}, has no English dev score of {target}"
                raise UserError(f"{problem}; finish the run, or name a --condition")
            scores[target] = score
    return scores


def _choice(run: RunDir, plan: Plan, condition: str, target: str, seed: int, by: str) -> ChosenPhase:
    phase = _phase(plan, condition, target, seed)
    return ChosenPhase(condition, seed if _depends_on_seed(phase) else None, phase, _dev_score(run, phase), by)


def _phase(plan: Plan, condition: str, target: str, seed: int) -> Phase:
    """The phase that scores a target after a condition. The pretrained encoder's retrieval has one for all seeds."""
    ids = plan.use[condition]
    scoring: Sequence[Phase] = [phase for phase in plan.phases if phase.id in ids and target in phase.evaluate]
    fitting = [phase for phase in scoring if phase.seed == seed or not _depends_on_seed(phase)]
    if not fitting:
        lacking = f"no phase that scores {target} after {condition}, seed {seed}"
        raise UserError(f"the plan has {lacking}; run the same `stilts run` again, it plans anew")
    return fitting[0]


def _depends_on_seed(phase: Phase) -> bool:
    return bool(phase.train or phase.init)


def _dev_score(run: RunDir, phase: Phase) -> float | None:
    """The exported model's score on English dev, as training kept it. None where nothing was trained, or not yet."""
    best = run.phase(phase.id).read_status().best
    if not phase.train or best is None:
        return None
    # A target's phase trains one task: another number would be a fault of the plan.
    [task] = phase.train
    return best.tasks[task].score if task in best.tasks else None
