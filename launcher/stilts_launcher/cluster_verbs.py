"""`stilts submit`, `status`, `logs`, `cancel` and `retry`: options, and what they hand to whom."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from stilts_ds.run_dir import RunDir
from stilts_launcher.options import Add, add_recipe, recipe_of, say, seconds_of


def add_cluster_verbs(add: Add) -> None:
    parser = add("submit", submit, "hand a recipe's plan to a cluster's launcher (Slurm), one job for each phase")
    add_recipe(parser)
    named = "cluster profile: a YAML file, or a name in ~/.config/stilts/clusters or of those shipped (cpu, gpu, ...)"
    parser.add_argument("--cluster", metavar="NAME", help=f"{named}; default: STILTS_CLUSTER")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands that would submit, and submit nothing"
    )
    some_phases = "only phases whose name (none/seed1/xnli) or id holds this"
    parser = add("status", status, "show what each phase of a run is doing")
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    # Not both: JSON is one document, a watch prints again and again.
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    every = (
        "show it again where it changed, every S seconds (default: 10), until nothing waits or runs; the exit status "
        "is then 0 where all is done, else 1"
    )
    # `const`: --watch without a number of seconds.
    how.add_argument("--watch", type=seconds_of, nargs="?", const=10.0, metavar="S", help=every)
    parser = add("logs", logs, "show the logs of what runs or failed")
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--phase", metavar="NAME", help=some_phases)
    parser.add_argument("--rank", type=int, help="the log of this rank instead of the batch job's")
    parser.add_argument("--lines", type=int, default=40, help="lines of each log (default: 40)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, while anything runs")
    parser = add("cancel", cancel, "cancel a run's jobs; running ones save first")
    parser.add_argument("run_dir", type=Path, help="folder of the run")
    parser.add_argument("--phase", metavar="NAME", help=some_phases)
    parser = add("retry", retry, "submit again what is neither done nor in the queue")
    parser.add_argument("run_dir", type=Path, help="folder of the run")


def submit(given: argparse.Namespace) -> int:
    from stilts_launcher.backends.registry import load_profile
    from stilts_launcher.profiles import find_profile
    from stilts_launcher.submit import submit_recipe

    profile = load_profile(find_profile(given.cluster))  # before the recipe, which takes longer to read
    say(submit_recipe(recipe_of(given), profile, given.dry_run))
    return 0


def status(given: argparse.Namespace) -> int:
    from stilts_launcher.status import run_status, watch_status

    folder = RunDir(given.run_dir)
    # The exit status lets a script wait for a study and go on only if all of it is done.
    if given.watch is not None:
        return 0 if watch_status(folder, given.watch).complete else 1
    current = run_status(folder)
    say(json.dumps(current.to_json(), indent=1) if given.json else current.text())
    return 0


def logs(given: argparse.Namespace) -> int:
    from stilts_launcher.status import follow_logs, run_logs

    # Printed as it comes; there is no end at which a text could be returned.
    if given.follow:
        follow_logs(RunDir(given.run_dir), given.phase, given.rank, given.lines, say)
        return 0
    say(run_logs(RunDir(given.run_dir), given.phase, given.rank, given.lines))
    return 0


def cancel(given: argparse.Namespace) -> int:
    from stilts_launcher.status import cancel_jobs

    say(cancel_jobs(RunDir(given.run_dir), given.phase))
    return 0


def retry(given: argparse.Namespace) -> int:
    from stilts_launcher.status import retry_run

    say(retry_run(RunDir(given.run_dir)))
    return 0
