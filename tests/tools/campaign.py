"""The fault campaign: real studies in the toy world, killed again and again, must end at an undisturbed run's numbers.

    python tests/tools/campaign.py --kills 200 --elastic 0.3 --seed 1 --output campaign

Each setting (ZeRO stage and ranks) is run once in peace. Then studies of it are started, killed at an aimed or a random
moment (or their disk is filled; sometimes a file is damaged, too), started again, and so on; at its end each curve, dev
score, result, exported weight and prediction is compared bit for bit. The starts of an elastic study have 1, 2 or 4
ranks by chance; its losses are compared within a tolerance. Every kill is a line of OUTPUT/kills.jsonl; OUTPUT/table.md
sums them up. After `--minutes` nothing is killed any more: the study that is under way runs to its end and is compared.
Of a campaign that was cut off, `tests/tools/campaign_table.py OUTPUT/kills.jsonl` sums up the studies that ended.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import campaign_table
import damage
import fire
import warm
from disk import small_disk
from distance import distance
from fire import Fight, Hang, Setting

AIMS = {  # what a phase has to do -> what is aimed at, and how often
    "training": {"training": 4, "saving": 5, "exporting": 4, "any": 2, "evaluating": 2},
    "retrieval": {"mining": 6, "evaluating": 2, "any": 2},
    "evaluating": {"evaluating": 6, "any": 1},
}
SKIPS = {-1: 2, 0: 12, 1: 5, 2: 2, 9: 1}  # phases that a start may begin before it is aimed at; -1: at the start itself
WEIGHTS = {
    "SIGKILL to all": 5,
    "SIGKILL to a rank": 4,
    "SIGTERM to a rank": 2,
    "SIGKILL to the launcher": 2,
    "SIGTERM to the launcher": 2,
    "SIGINT to the launcher": 1,
    "full disk": 2,
}
COLD = 0.1  # share of starts as a user starts; the others, all but a study's last, are forked: imports take longest
ELASTIC = (1, 2, 4)  # ranks that a start of an elastic study may have
MOST_REPORTS = 3  # kills while a study reports
DISK = 120  # megabytes of a study's own file system
SHORT = ["intermediate={none: []}", "targets=[xnli]", "target_training.max_steps=2"]
DELAYS = {"any": 2.0, "training": 1.0, "reporting": 1.0}  # seconds after the aim is met, at most; else 0.05


@dataclass
class Record:
    """The streamed lines of a campaign."""

    path: Path
    lines: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **line: Any) -> None:
        self.lines.append(line)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)


@dataclass
class Campaign:
    """What the studies of a campaign share."""

    folder: Path
    dice: random.Random
    record: Record
    damage_share: float
    stages: list[int]
    elastic_share: float = 0.0
    deadline: float = math.inf  # of time.monotonic(), when killing ends
    quiet: dict[Setting, tuple[Fight, dict[str, Any]]] = field(default_factory=dict)

    def over(self) -> bool:
        """Whether the time for killing is up."""
        return time.monotonic() >= self.deadline

    def undisturbed(self, setting: Setting) -> tuple[Fight, dict[str, Any]]:
        """A run of the setting in peace, and all that it left; made once."""
        if setting not in self.quiet:
            folder = self.folder / f"quiet-{setting.stage}-{setting.ranks}"
            world = next((fight.run for fight, _ in self.quiet.values()), None)
            self.quiet[setting] = fire.quiet_run(folder, setting, world)
        return self.quiet[setting]

    def study(self, number: int, setting: Setting, kills: int) -> int:
        """Fight one study to its end with at most `kills` kills; returns how many there were."""
        quiet, expected = self.undisturbed(setting)
        fight = Fight(self.folder / f"study-{number:03d}", setting)
        # Drawn only where asked for: a seed gives the kills that it gave before.
        is_elastic = self.elastic_share > 0 and self.dice.random() < self.elastic_share
        where = f"ZeRO {setting.stage}, 1, 2 or 4 ranks a start" if is_elastic else str(setting)
        told = {"study": number, "where": where}
        # A damaged curve would be compared as one that other ranks computed.
        damage_share = 0.0 if is_elastic else self.damage_share
        with small_disk(fight.run.parent, DISK) as fillable:
            fire.copy_toy_world(quiet.run, fight.run)
            kinds = {kind: weight for kind, weight in WEIGHTS.items() if fillable or kind != "full disk"}
            study = Study(fight, self.dice, self.record, told, damage_share, kinds, is_elastic, self.over)
            try:
                study.fight(kills)
                study.finish(expected, quiet.run)
            except Hang as hang:
                self.record.add(**told, hang=str(hang), output=fight.output()[-2000:])
            finally:
                fight.end()
        if study.clean:
            shutil.rmtree(fight.folder)
        return study.struck

    def end_cleanly(self, starts: int, settings: list[Setting]) -> None:
        """Whole processes that train, evaluate and leave by themselves: how they end."""
        for number in range(starts):
            setting = settings[number % len(settings)]
            fight = Fight(self.folder / f"clean-{number:03d}", setting, SHORT)
            fire.copy_toy_world(self.undisturbed(setting)[0].run, fight.run)
            fight.start()
            code = fight.wait()
            failure = {} if code == 0 else {"failure": fight.output()[-2000:]}
            self.record.add(study=f"clean {number}", where=str(setting), left=code, aborted=fight.aborted(), **failure)
            shutil.rmtree(fight.folder)


@dataclass
class Study:
    """One study from its first start to the comparison with a quiet run."""

    fight_: Fight
    dice: random.Random
    record: Record
    told: dict[str, Any]
    damage_share: float
    kinds: dict[str, int]
    is_elastic: bool = False
    over: Callable[[], bool] = lambda: False
    clean: bool = False
    struck: int = 0
    reports: int = 0
    failures: int = 0
    open_hits: list[dict[str, Any]] = field(default_factory=list)
    harmed: list[tuple[str, str, Path]] = field(default_factory=list)
    deleted_curves: list[str] = field(default_factory=list)  # as the message of a refusal asked
    count: int = 0  # ranks of the start that runs
    steps: Counter[int] = field(default_factory=Counter)  # ranks of a start -> steps that such starts took

    def fight(self, kills: int) -> None:
        """Start and strike until there were enough kills, the time is up or the study is at its end."""
        while self.struck < kills and self.reports < MOST_REPORTS and not self.over():
            self._start(forked=self.dice.random() >= COLD)
            aim = self.fight_.await_aim(lambda kind: draw(self.dice, AIMS[kind]), draw(self.dice, SKIPS))
            time.sleep(self.dice.random() * DELAYS.get(aim or "", 0.05))
            if self.fight_.ended():
                if self._ended() or self.failures > 2:
                    return
                continue
            hit = self.fight_.strike(draw(self.dice, self.kinds), self.dice)
            self._settle()
            self.struck += 1
            self.reports += hit["activity"] == "reporting"
            self.open_hits.append({**hit, "aimed": aim, "ranks": self.count})
            if self.dice.random() < self.damage_share:
                self._damage()

    def finish(self, expected: dict[str, Any], quiet: Path) -> None:
        """Run to the end and compare with what the undisturbed run in `quiet` left."""
        self._start()
        while not self._ended() and self.failures < 3:
            self._start()
        self._settle(last=True)
        apart = {}
        if self.is_elastic:
            apart_by = distance(self.fight_.run, quiet)
            found, apart = list(apart_by.faults), {"apart": asdict(apart_by), "steps": dict(self.steps)}
        else:
            found = fire.differences(fire.left_by(self.fight_.run), expected)
        if self.deleted_curves and self._curve_is_reported():
            found = [n for n in found if n not in ("results.json", *self.deleted_curves)]
        for kind, how, path in self.harmed:
            answer = "found when loaded" if self._is_refused_on_loading(path) else "mended"
            found = [name for name in found if answer == "mended" or not path.match(f"*/{name}")]
            if kind == "curve" and self._curve_is_reported():
                answer, found = "reported", [n for n in found if n not in ("results.json", f"{path.parent.name}/curve")]
            self.record.add(**self.told, damaged=kind, how=how, answer=answer)
        self.record.add(
            **self.told,
            end=self.fight_.wait(),
            kills=self.struck,
            differences=found,
            leftovers=fire.leftovers(self.fight_.run),
            failures=self.failures,
            **apart,
        )
        self.clean = not found and not self.failures

    def _start(self, forked: bool = False) -> None:
        """Start the study, an elastic one with other ranks by chance."""
        self.count = self.dice.choice(ELASTIC) if self.is_elastic else self.fight_.setting.ranks
        self.fight_.start(forked, self.count if self.is_elastic else 0)

    def _ended(self) -> bool:
        """After a start that ended by itself: whether all is done. A refusal of a damaged file is answered."""
        code = self.fight_.wait()
        self._settle()
        self.record.add(**self.told, ended=code, aborted=self.fight_.aborted())
        if code == 0:
            return True
        output = self.fight_.output()
        named = [h for h in self.harmed if any(str(place) in output for place in places(self.fight_.run, h[2]))]
        for kind, how, path in named:
            self.harmed.remove((kind, how, path))
            self.record.add(**self.told, damaged=kind, how=how, answer="refused", output=output[-300:])
            damage.mend(self.fight_.run, path)
            self.deleted_curves += [f"{path.parent.name}/curve"] * (kind == "curve")
        if not named:
            self.failures += 1
            self.record.add(**self.told, failure=output[-2000:])
        return False

    def _damage(self) -> None:
        kind, how = self.dice.choice(list(damage.FILES)), self.dice.choice(damage.HOW)
        path = damage.damage(self.fight_.run, self.dice, kind, how)
        if path is not None:
            self.harmed.append((kind, how, path))

    def _settle(self, last: bool = False) -> None:
        """Write down the kills whose consequences the start that has just ended has shown."""
        if not last:
            self.steps[self.count] += len(re.findall(r" step \d+/\d+ loss ", self.fight_.watch.said()))
        still = []
        for hit in self.open_hits:
            found = self.fight_.watch.aftermath(hit)
            if found is None and not last:
                still.append(hit)
                continue
            found = found or {}
            at = found.pop("continued", None)
            wrong = at is not None and not self.harmed and at < hit["step" if hit["status"] == 85 else "committed"]
            self.record.add(**self.told, **hit, **found, lost_commit=wrong)
        self.open_hits = still

    def _curve_is_reported(self) -> bool:
        missing = json.loads((self.fight_.run / "results.json").read_text())["missing"]
        return any("metrics.jsonl" in line for line in missing)

    def _is_refused_on_loading(self, path: Path) -> bool:
        from stilts_ds.errors import UserError
        from stilts_ds.export import check_export
        from stilts_ds.run_dir import PhaseDir

        if not (path.name == "heads.safetensors" or path.parent.name == "encoder"):
            return False
        try:
            check_export(PhaseDir(self.fight_.run.joinpath(*path.relative_to(self.fight_.run).parts[:2])))
        except UserError:
            return True
        return False


def places(run: Path, path: Path) -> list[Path]:
    """The file itself, or the folder that is one thing with it."""
    if "checkpoints" in path.parts:
        return [path, path.parent, run.joinpath(*path.relative_to(run).parts[:3])]
    return [path, path.parent if "encoder" in path.parts else path]


Choice = TypeVar("Choice")


def draw(dice: random.Random, weights: dict[Choice, int]) -> Choice:
    return dice.choices(list(weights), list(weights.values()))[0]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="on this machine's ranks (default: 200)")
    parser.add_argument("--cluster-kills", type=int, default=0, help="on a two-node Slurm cluster, as root")
    parser.add_argument("--clean-ends", type=int, default=40, help="starts of whole processes that nothing disturbs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--kills-per-study", type=int, default=13)
    parser.add_argument("--damage", type=float, default=0.2, help="share of kills after which a file is damaged")
    parser.add_argument("--elastic", type=float, default=0.0, help="share of studies whose starts have 1, 2 or 4 ranks")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after these, nothing more is killed")
    parser.add_argument(
        "--limit", type=float, default=fire.LIMIT, help="seconds that anything may take; more is a hang"
    )
    parser.add_argument("--output", type=Path, default=Path("campaign"))
    given = parser.parse_args(arguments)
    fire.LIMIT = given.limit
    given.output.mkdir(parents=True, exist_ok=True)
    record = Record(given.output / "kills.jsonl")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it, and theirs too
    warm.load()
    dice = random.Random(given.seed)
    deadline = time.monotonic() + 60 * given.minutes
    campaign = Campaign(given.output.resolve(), dice, record, given.damage, given.stages, given.elastic, deadline)
    if given.cluster_kills:
        from campaign_cluster import fight_on_a_cluster

        fight_on_a_cluster(campaign, given.cluster_kills, given.kills_per_study)
    settings = [Setting(stage, count) for count in given.ranks for stage in given.stages]
    struck = number = 0
    while struck < given.kills and not campaign.over():
        number += 1
        setting = settings[number % len(settings)]
        struck += campaign.study(number, setting, min(given.kills_per_study, given.kills - struck))
    campaign.end_cleanly(given.clean_ends, settings)
    table = campaign_table.table(record.lines)
    (given.output / "table.md").write_text(table, encoding="utf-8")
    print(table)
    return int(campaign_table.is_bad(record.lines))


if __name__ == "__main__":
    sys.exit(main())
