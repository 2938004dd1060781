"""`stilts submit`, `status`, `logs`, `cancel` and `retry`: options, and what they hand to whom."""

from __future__ import annotations

import argparse
import json

from stilts_launcher.options import PHASES_HELP, RUN_HELP, Add, add_recipe, recipe_of, run_folder, say, seconds_of


def add_cluster_verbs(add: Add) -> None:
    parser = add("submit", submit, "hand a recipe's plan to a cluster's launcher (Slurm), one job for each phase")
    add_recipe(parser)
    named = "cluster profile: a YAML file, or a name in ~/.config/stilts/clusters or of those shipped (cpu, gpu, ...)"
    parser.add_argument("--cluster", metavar="NAME", help=f"{named}; default: STILTS_CLUSTER")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="print the commands that would submit, and submit nothing")
    _add_watch(how)
    parser = add("status", status, "show what each phase of a run is doing")
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    parser.add_argument("--phases", action="store_true", help="a line for each phase of a large study, too")
    # Not both: JSON is one document, a watch prints again and again.
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON")
    _add_watch(how)
    parser = add("logs", logs, "show the logs of what runs or failed")
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    _add_phase(parser)
    parser.add_argument("--rank", type=int, help="the log of this rank instead of the batch job's")
    parser.add_argument("--lines", type=int, default=40, help="lines of each log (default: 40)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, while anything runs")
    parser = add("cancel", cancel, "cancel a run's jobs; running ones save first")
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    _add_phase(parser)
    parser = add("retry", retry, "submit again what is neither done nor in the queue")
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)


def _add_watch(how: argparse._MutuallyExclusiveGroup) -> None:
    every = (
        "look again every S seconds (default: 10) and show the status where a phase's state changed, until nothing "
        "waits or runs; the exit status is then 0 where all is done, else 1"
    )
    # `const`: --watch without a number of seconds.
    how.add_argument("--watch", type=seconds_of, nargs="?", const=10.0, metavar="S", help=every)


def _add_phase(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("phase", nargs="?", metavar="PHASE", help=PHASES_HELP)
    # As the verbs that take a recipe name it; without `default`, it would undo the positional one.
    parser.add_argument("--phase", dest="phase", metavar="PHASE", default=argparse.SUPPRESS, help="the same")


def submit(given: argparse.Namespace) -> int:
    from stilts_launcher.backends.registry import load_profile
    from stilts_launcher.profiles import find_profile
    from stilts_launcher.start import run_of
    from stilts_launcher.status import watch_status
    from stilts_launcher.submit import submit_recipe

    profile = load_profile(find_profile(given.cluster))  # before the recipe, which takes longer to read
    recipe = recipe_of(given)
    say(submit_recipe(recipe, profile, given.dry_run))
    if given.watch is None:
        return 0
    return 0 if watch_status(run_of(recipe), given.watch).complete else 1


def status(given: argparse.Namespace) -> int:
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.status import run_status, watch_status

    folder = RunDir(given.run_dir)
    # The exit status lets a script wait for a study and go on only if all of it is done.
    if given.watch is not None:
        return 0 if watch_status(folder, given.watch, given.phases).complete else 1
    current = run_status(folder)
    say(json.dumps(current.to_json(), indent=1) if given.json else current.text(given.phases))
    return 0


def logs(given: argparse.Namespace) -> int:
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.status import follow_logs, run_logs

    # Printed as it comes; there is no end at which a text could be returned.
    if given.follow:
        follow_logs(RunDir(given.run_dir), given.phase, given.rank, given.lines, say)
        return 0
    say(run_logs(RunDir(given.run_dir), given.phase, given.rank, given.lines))
    return 0


def cancel(given: argparse.Namespace) -> int:
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.status import cancel_jobs

    say(cancel_jobs(RunDir(given.run_dir), given.phase))
    return 0


def retry(given: argparse.Namespace) -> int:
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.status import retry_run

    say(retry_run(RunDir(given.run_dir)))
    return 0
