"""The `stilts` command. Each verb is one function; heavy packages are imported inside the verbs that need them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from stilts_ds import __version__
from stilts_ds.config import NAME, Recipe, load_recipe, shipped_recipes
from stilts_ds.errors import UserError, check_docstrings, os_problem, print_anywhere, printable
from stilts_ds.recipe_paths import resolve_paths
from stilts_ds.run_dir import RunDir
from stilts_launcher import checklist, noise, score_folders
from stilts_launcher.execute import add_execute

BENCHMARKS = {
    "execute": "stilts_bench.execute",
    "kernels": "stilts_bench.kernels",
    "pipeline": "stilts_bench.pipeline",
    "training": "stilts_bench.training",
}


def main(arguments: list[str] | None = None) -> int:
    print_anywhere()
    words = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    cut = 1 if words[:1] == ["bench"] else len(words)  # argparse would not hand on options
    given, rest = parser.parse_known_args(words[:cut])
    given.options = words[cut:]
    if hasattr(given, "overrides"):  # argparse takes a list of them in one place only; they may stand behind options
        given.overrides += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in given.overrides]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        check_docstrings()
        return given.verb(given)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as problem:
        print(f"error: {os_problem(problem)}", file=sys.stderr)
        return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stilts",
        description="Intermediate-task training (STILTs) of multilingual encoders: intermediate training, English "
        "fine-tuning, zero-shot evaluation on XTREME.",
    )
    parser.add_argument("--version", action="version", version=f"stilts-ds {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    overrides = "recipe settings, such as engine.zero_stage=3 seeds=[1,2]; `stilts schema` lists them all"
    recipes = f"a shipped recipe ({', '.join(shipped_recipes())}) or a YAML file"

    def add(name: str, verb: Any, text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(verb=verb)
        return made

    for name, verb, text in (
        ("run", run, "train, evaluate, score and report a recipe; started again, it continues where it was"),
        ("plan", plan, "show what `run` would do: phases, steps, tokens, memory, and what is done already"),
        ("fetch", fetch, "bring model, tokenizer and data onto this machine, tokenise them, check them offline"),
        ("train", train, "only the training of a recipe's phases"),
    ):
        part = add(name, verb, text)
        part.add_argument("recipe", help=recipes)
        part.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
        if name == "plan":
            part.add_argument("--ranks", type=int, metavar="N", help="estimate for N ranks (default: the recipe's)")
            part.add_argument("--gpu-memory", type=float, metavar="GIB", help="name the ZeRO stage and batch that fit")
            part.add_argument("--trial", action="store_true", help="measure a few steps of the largest phase here")
            part.add_argument("--json", action="store_true", help="print JSON")
        elif name != "fetch":
            part.add_argument("--phase", action="append", default=[], metavar="ID", help="only this phase (repeatable)")
    for name, verb, text in (
        ("evaluate", evaluate, "predict with a run's trained phases whatever is not predicted yet"),
        ("score", score, "score a run's predictions, or any predictions folder against a labels folder"),
        ("report", report, "test a run's gains and write report.html, .md, .csv, .tex, results.json and model cards"),
    ):
        part = add(name, verb, text)
        part.add_argument("run_dir", type=Path, nargs="?" if name == "score" else None, help="folder of the run")
        if name in ("score", "report"):
            part.add_argument(
                "--qa-f1", action="store_true", help="also the average with question answering by F1 only"
            )
        if name == "score":
            score_folders.add_arguments(part)
        if name == "report":
            help_text = "of the paired bootstrap (default: as many as the number of comparisons needs)"
            part.add_argument("--resamples", type=_count, default=0, metavar="N", help=help_text)
            part.add_argument("--level", type=_share, default=0.05, metavar="P", help="of corrected significance")
            part.add_argument("--png", action="store_true", help="also write report.png (needs matplotlib)")
    part = add("submit", submit, "hand a recipe's plan to a cluster's launcher (Slurm), one job for each phase")
    part.add_argument("recipe", help=recipes)
    part.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
    part.add_argument("--cluster", type=Path, required=True, metavar="PROFILE", help="YAML file; see slurm/profiles/")
    part.add_argument("--dry-run", action="store_true", help="print the commands that would submit, and submit nothing")
    for name, verb, text in (
        ("status", status, "show what each phase of a submitted run is doing"),
        ("logs", logs, "show the logs of what runs or failed"),
        ("cancel", cancel, "cancel a run's jobs; running ones save first"),
        ("retry", retry, "submit again what is neither done nor in the queue"),
    ):
        part = add(name, verb, text)
        part.add_argument("run_dir", type=Path, help="folder of the run")
        if name in ("logs", "cancel"):
            part.add_argument("--phase", metavar="ID", help="only phases whose id holds this")
        if name == "logs":
            part.add_argument("--rank", type=int, help="the log of this rank instead of the batch job's")
            part.add_argument("--lines", type=int, default=40, help="lines of each log (default: 40)")
    part = add("push", push, "upload a phase's encoder, heads and model card to the Hugging Face hub")
    part.add_argument("phase_dir", type=Path, metavar="PHASE", help="folder of a trained phase: runs/NAME/phases/ID")
    part.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the hub's repository, made if need be")
    part.add_argument("--private", action="store_true", help="make the repository private when it is made")
    part.add_argument("--dry-run", action="store_true", help="only list what would be uploaded; needs no network")
    part = add("submission", submission, "write a run's predictions as a submission to its benchmark and check it")
    part.add_argument("run_dir", type=Path, help="folder of the run")
    one = part.add_mutually_exclusive_group()
    one.add_argument("--condition", help="row of the table to submit (default: the run's last)")
    one.add_argument("--best", action="store_true", help="of each target the condition that is best on English dev")
    part.add_argument("--seed", type=int, metavar="N", help="seed to submit, where the run has several")
    part.add_argument("--output", type=Path, help="folder to write (default: submission/ in the run)")
    part = add("tasks", tasks, "list the tasks, or show examples of one")
    part.add_argument("task", nargs="?", help="show this task")
    part.add_argument("--show", type=int, default=0, metavar="N", help="print the first N examples")
    part.add_argument("--files", action="store_true", help="print local files with examples, SHA-256 and what is known")
    part.add_argument("--model", help="also show the examples as this model's tokenizer cuts them (hub id or folder)")
    part.add_argument("--split", default="train", help="split to show (default: train)")
    part.add_argument("--language", help="language to show (default: English)")
    part.add_argument("--intermediate", type=Path, help="folder of the intermediate tasks' files")
    part.add_argument("--xtreme", type=Path, help="XTREME's download folder")
    part.add_argument("--translated", type=Path, help="folder of translated tasks such as mnli.de, DIR/<language>/...")
    part.add_argument("--text", type=Path, help="folder of <language>.txt files (task mlm)")
    noise.add_arguments(add("noise", noise.write, "write noisy test sets of a task as files in the benchmark's layout"))
    checklist.add_arguments(
        add("checklist", checklist.write, "write MultiCheckList's cases from its table of templates")
    )
    add_execute(add)
    add("schema", schema, "print the recipe's JSON schema, for editors")
    part = add("doctor", doctor, "check this machine: versions, ranks, collectives, memory, disk, and what fits on it")
    part.add_argument("recipe", nargs="?", help=f"also name the ZeRO stage and batch for {recipes}")
    part.add_argument("overrides", nargs="*", metavar="key=value", help=overrides)
    part.add_argument("--trial", action="store_true", help="measure a few steps of the recipe's largest phase for that")
    part = add("bench", bench, f"benchmark {' or '.join(BENCHMARKS)}; see `stilts bench NAME -h` (no name: kernels)")
    part.add_argument("options", nargs=argparse.REMAINDER, help="name and options of the benchmark")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 100:
        raise argparse.ArgumentTypeError("give at least 100 resamples")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError("give a share between 0 and 1, such as 0.05")
    return value


def recipe_of(given: argparse.Namespace) -> Recipe:
    from stilts_ds.data.data import hub_commits_path
    from stilts_ds.ds_files import base_config
    from stilts_ds.model_files import fit_retrieval_length
    from stilts_ds.model_hub import pin_model

    recipe = resolve_paths(load_recipe(given.recipe, given.overrides))
    base_config(recipe.engine)  # a faulty DeepSpeed file is told before data are read
    # Whoever looks at the model's files looks at the commit that the run keeps; the hub is asked later.
    recipe = pin_model(recipe, hub_commits_path(recipe, recipe.output_dir / recipe.name), ask=False)
    return fit_retrieval_length(recipe)


def recipe_of_run(run: RunDir) -> Recipe:
    """The resolved recipe inside a run folder, for work in just that folder, also where it was copied or moved.

    Raises UserError where there is none, or the folder has a name that no run can have.
    """
    from stilts_ds.report.load import read_recipe

    run.check_links()
    recipe, folder = read_recipe(run), run.root.resolve()
    if not re.fullmatch(NAME, folder.name):
        raise UserError(f"{folder.name!r} is no name of a run; use letters, digits, '.', '_' and '-'")
    return recipe.model_copy(update={"output_dir": folder.parent, "name": folder.name})


def run(given: argparse.Namespace) -> int:
    from stilts_launcher.start import run_of, run_recipe

    recipe = recipe_of(given)
    status = run_recipe(recipe, phases=given.phase)
    if status == 0 and _rank_0():
        _finish(run_of(recipe))
    return status


def say(text: str) -> None:
    """Print what may quote a stranger's file: names, examples, states."""
    print(printable(text))


def _rank_0() -> bool:
    import os

    return os.environ.get("RANK", "0") == "0"


def _finish(folder: RunDir, png: bool = False, qa_f1: bool = False, **settings: Any) -> None:
    from stilts_ds.report.stats import Settings
    from stilts_ds.report.write import beside, write_report

    say(f"\n{write_report(folder, Settings(**settings), png, qa_f1)}")
    say(f"Report with every language: {beside(folder, '.html')} (and .md, .csv, .tex)")
    say(f"Curves: tensorboard --logdir {folder.tensorboard}")


def train(given: argparse.Namespace) -> int:
    from stilts_launcher.start import run_recipe

    return run_recipe(recipe_of(given), only="train", phases=given.phase)


def plan(given: argparse.Namespace) -> int:
    from stilts_launcher.show.plan import show_plan

    if given.ranks is not None and given.ranks < 1:
        raise UserError(f"--ranks {given.ranks}: give one rank or more")
    say(show_plan(recipe_of(given), given.ranks, given.gpu_memory, given.trial, given.json))
    return 0


def fetch(given: argparse.Namespace) -> int:
    from stilts_launcher.fetch import fetch_recipe

    say(fetch_recipe(recipe_of(given)))
    return 0


def evaluate(given: argparse.Namespace) -> int:
    from stilts_ds.model_files import fit_retrieval_length
    from stilts_launcher.start import run_recipe

    return run_recipe(fit_retrieval_length(recipe_of_run(RunDir(given.run_dir))), only="evaluate")


def score(given: argparse.Namespace) -> int:
    if given.run_dir is None:
        say(score_folders.score_folders(given))
        return 0
    from stilts_ds.data.data import Data
    from stilts_ds.evaluate.score_run import score_phase
    from stilts_ds.plan_file import Plan

    folder = RunDir(given.run_dir)
    recipe = recipe_of_run(folder)
    if given.benchmark not in (None, recipe.benchmark):
        raise UserError(
            f"--benchmark {given.benchmark}: this run's recipe names {recipe.benchmark}, whose languages it has"
        )
    data = Data(recipe, folder.root)
    for phase in Plan.load(folder.plan).phases:
        if phase.evaluate:
            score_phase(folder, recipe, phase, data)
    return report(given)


def report(given: argparse.Namespace) -> int:
    folder = RunDir(given.run_dir)
    options = ("resamples", "level", "png", "qa_f1")  # `stilts score` ends in a report too, with their defaults
    _finish(folder, **{name: getattr(given, name) for name in options if hasattr(given, name)})
    return 0


def push(given: argparse.Namespace) -> int:
    from stilts_ds.report.push import push as push_phase
    from stilts_ds.run_dir import PhaseDir

    say(push_phase(PhaseDir(given.phase_dir), given.repo, given.private, given.dry_run))
    return 0


def submit(given: argparse.Namespace) -> int:
    from stilts_launcher.backends.registry import load_profile
    from stilts_launcher.submit import submit_recipe

    say(submit_recipe(recipe_of(given), load_profile(given.cluster), given.dry_run))
    return 0


def status(given: argparse.Namespace) -> int:
    from stilts_launcher.status import run_status

    say(run_status(RunDir(given.run_dir)))
    return 0


def logs(given: argparse.Namespace) -> int:
    from stilts_launcher.status import run_logs

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


def submission(given: argparse.Namespace) -> int:
    from stilts_ds.evaluate.run_submission import write_run_submission

    folder = RunDir(given.run_dir)
    output = given.output or folder.root / "submission"
    say(write_run_submission(folder, recipe_of_run(folder), output, given.condition, given.best, given.seed))
    return 0


def tasks(given: argparse.Namespace) -> int:
    from stilts_ds.sources.source import DataSource
    from stilts_ds.tasks.registry import TASKS, get_task
    from stilts_launcher.show.tasks import show_examples, show_files, task_card, tasks_table

    folders = given.intermediate, given.xtreme, given.text, given.translated
    if given.files:
        chosen = TASKS.values() if given.task is None else [get_task(given.task)]
        say(show_files(chosen, DataSource("local", *folders), given.language))
        return 0
    if given.task is None:
        say(tasks_table())
        return 0
    task = get_task(given.task)
    say(task_card(task))
    if given.show:
        source = DataSource("local" if any(folders) else "hub", *folders)
        language = given.language or (task.train_language if given.split == "train" else task.pivot)
        shown = show_examples(task, given.split, language, source, given.show, given.model)
        say(shown)
    return 0


def schema(given: argparse.Namespace) -> int:
    from stilts_ds.config import TrainingPart

    full = Recipe.model_json_schema()
    training = TrainingPart.model_json_schema()
    training["required"] = []
    for key in ("intermediate_training", "target_training", "multitask_training", "mlm_training"):
        full["properties"][key] = {**full["properties"][key], **training}
    full["properties"]["task_training"]["additionalProperties"] = training
    say(json.dumps(full, indent=1))
    return 0


def doctor(given: argparse.Namespace) -> int:
    from stilts_launcher.doctor import examine

    if given.recipe is None and given.trial:
        raise UserError("--trial needs a recipe")
    return examine(recipe_of(given) if given.recipe else None, given.trial)


def bench(given: argparse.Namespace) -> int:
    from importlib import import_module

    beside = Path(__file__).resolve().parents[2] / "kernels" / "bench"  # in a checkout that is not installed
    if beside.is_dir():
        sys.path.insert(0, str(beside))
    named = given.options[:1] and given.options[0] in BENCHMARKS
    name, options = (given.options[0], given.options[1:]) if named else ("kernels", given.options)
    return int(import_module(BENCHMARKS[name]).main(options))


if __name__ == "__main__":
    sys.exit(main())
