"""The `stilts` command. Each verb is one function; heavy packages are imported inside the verbs that need them."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from stilts_ds.display import duration
from stilts_ds.errors import UserError, check_docstrings, missing_package, os_problem, print_anywhere
from stilts_launcher import completion
from stilts_launcher.cluster_verbs import add_cluster_verbs
from stilts_launcher.completion import COMPLETING, complete, completed_verb
from stilts_launcher.options import (
    RUN_HELP,
    Add,
    add_overrides,
    add_recipe,
    add_test_options,
    add_verbosity,
    recipe_of,
    recipes_help,
    run_folder,
    say,
    set_verbosity,
)
from stilts_launcher.parser import grouped_parser
from stilts_launcher.results import finish, push, report, score, submission

if TYPE_CHECKING:
    pass

# Modules by name: nothing but `stilts bench` imports the benchmarks.
BENCHMARKS = {
    "execute": "stilts_bench.execute",
    "generation": "stilts_bench.generation",
    "gpu": "stilts_bench.gpu",
    "kernels": "stilts_bench.kernels",
    "mining": "stilts_bench.mining",
    "pipeline": "stilts_bench.pipeline",
    "scale": "stilts_bench.scale",
    "training": "stilts_bench.training",
}


def main(arguments: list[str] | None = None) -> int:
    # Before anything is printed, help included: a table's characters may not exist in a terminal's encoding.
    print_anywhere()
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    # A shell asks for what may stand next; its answer comes from the parser.
    if COMPLETING in os.environ:
        return complete(build_parser(completed_verb()))
    parser = build_parser(words[0] if words else "")
    # Options behind a benchmark's name are its own, which argparse would not hand on.
    cut = 1 if words[:1] == ["bench"] and words[1:] not in (["-h"], ["--help"]) else len(words)
    given, unknown = parser.parse_known_args(words[:cut])
    given.options, given.words = words[cut:], words
    if hasattr(given, "overrides"):  # argparse takes a list of them in one place only; they may stand behind options
        given.overrides += [word for word in unknown if "=" in word and not word.startswith("-")]
        unknown = [word for word in unknown if word not in given.overrides]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    set_verbosity(given)
    try:
        check_docstrings()
        return given.verb(given)
    except UserError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as problem:
        print(f"error: {missing_package(problem)}", file=sys.stderr)
        return 2
    # `stilts tasks | head` closes our output early, which is no fault.
    except BrokenPipeError:
        return 0
    # A full disk or a refused permission: the machine is at fault and not the command, so not status 2.
    except OSError as problem:
        print(f"error: {os_problem(problem)}", file=sys.stderr)
        return 1


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The command's parser. With a `verb`, or "" for none, options of others that are slow to import are left out."""
    groups: dict[str, Callable[[Add], None]] = {
        "Studies": _add_study,
        "Results": _add_results,
        "Clusters": add_cluster_verbs,
        "Publishing": _add_publishing,
        "Data": _add_data,
        "Programs and mining": _add_programs,
        "This machine": _add_machine,
    }
    return grouped_parser(groups, verb)


def _add_study(add: Add) -> None:
    """Verbs that take a recipe, and the one that writes it."""
    add("init", "init:add_arguments", "write a commented recipe and a cluster profile after five questions")
    parser = add("demo", run, "the recipe `quickstart`: a whole study in miniature, in minutes, without network")
    add_overrides(parser)
    add_verbosity(parser)
    parser.set_defaults(recipe="quickstart", phase=[])
    train_text = "only the training of a recipe's phases"
    run_text = "train, evaluate, score and report a recipe; started again, it continues where it was"
    for name, verb, text in (("run", run, run_text), ("train", train, train_text)):
        parser = add(name, verb, text)
        add_recipe(parser)
        add_verbosity(parser)
        parser.add_argument(
            "--phase",
            action="append",
            default=[],
            metavar="NAME",
            help="only this phase, such as none/seed1/xnli, or its id (repeatable)",
        )
    parser = add("plan", plan, "show what `run` would do: phases, steps, tokens, memory, and what is done already")
    add_recipe(parser)
    parser.add_argument("--ranks", type=int, metavar="N", help="estimate for N ranks (default: the recipe's)")
    parser.add_argument("--gpu-memory", type=float, metavar="GIB", help="name the ZeRO stage and batch that fit")
    parser.add_argument("--trial", action="store_true", help="measure a few steps of the largest phase here")
    parser.add_argument("--phases", action="store_true", help="describe each phase, with its memory by ZeRO stage")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add("prepare", "prepare:add_arguments", "tokenise what a recipe's phases need, on as many CPU nodes as wanted")
    add_recipe(
        add("fetch", fetch, "bring model, tokenizer and data onto this machine, tokenise them, check them offline")
    )


def _add_results(add: Add) -> None:
    """Verbs that take a run's folder and look at what came out."""
    parser = add("evaluate", evaluate, "predict with a run's trained phases whatever is not predicted yet")
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    add_verbosity(parser)
    parser = add("score", score, "score a run's predictions, or any predictions folder against a labels folder")
    parser.add_argument("run_dir", type=run_folder, nargs="?", metavar="RUN", help=RUN_HELP)
    parser.add_argument("--predictions", type=Path, help="folder <task>/<split>-<language>.tsv|json")
    parser.add_argument("--labels", type=Path, help="folder of the same layout")
    parser.add_argument("--verdicts", type=Path, nargs="+", help="file of `stilts execute`; two are compared")
    parser.add_argument("--perturbed", type=Path, nargs="+", help="verdicts on perturbed prompts: RP, RD, RR")
    parser.add_argument("--split", default="test", choices=["dev", "test"], help="split to read (default: test)")
    parser.add_argument("--benchmark", choices=["xtreme", "xtreme-r"], help="all of its tasks, missing ones named")
    parser.add_argument("--qa-f1", action="store_true", help="also the average with question answering by F1 only")
    parser.add_argument("--output", type=Path, help="also write scores.json, .csv and .md into this folder")
    parser = add(
        "report", report, "test a run's gains and write report.html, .md, .csv, .tex, results.json and model cards"
    )
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    add_test_options(parser)
    parser.add_argument("--qa-f1", action="store_true", help="also the average with question answering by F1 only")
    for name in ("png", "svg", "pdf"):
        help = f"also draw the matrix as report.{name}, the curves as report-curves.{name} (needs matplotlib)"
        parser.add_argument(f"--{name}", dest="figures", action="append_const", const=name, help=help)
    parser.add_argument("--page", type=Path, metavar="FILE", help="also write a study's page, as in docs/results")
    parser.add_argument("--at-scale", metavar="RECIPE", help="on that page: what this recipe costs, from its plan")
    add("compare", "compare:add_arguments", "test runs, or conditions of one, against each other")
    add("clean", "clean:add_arguments", "show what of a run's models need not stay, and remove it with --yes")
    add("attack", "attack:add_arguments", "put noise where it hurts a trained model most, by its loss")


def _add_publishing(add: Add) -> None:
    standard = "write a phase's encoder and head as a model that transformers' pipeline() loads"
    add("export", "export:add_arguments", standard)
    parser = add("push", push, "upload a phase's encoder, heads and model card to the Hugging Face hub")
    parser.add_argument(
        "phase_dir", type=Path, metavar="RUN/NAME", help="such as runs/my-study/none/seed1/xnli, or its folder"
    )
    parser.add_argument("--repo", required=True, metavar="OWNER/NAME", help="the hub's repository, made if need be")
    parser.add_argument("--private", action="store_true", help="make the repository private when it is made")
    parser.add_argument("--dry-run", action="store_true", help="only list what would be uploaded; needs no network")
    parser = add("submission", submission, "write a run's predictions as a submission to its benchmark and check it")
    parser.add_argument("run_dir", type=run_folder, metavar="RUN", help=RUN_HELP)
    condition = parser.add_mutually_exclusive_group()
    condition.add_argument("--condition", help="row of the table to submit (default: the run's last)")
    condition.add_argument(
        "--best", action="store_true", help="of each target the condition that is best on English dev"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed to submit, where the run has several")
    parser.add_argument("--output", type=Path, help="folder to write (default: submission/ in the run)")


def _add_data(add: Add) -> None:
    parser = add("tasks", tasks, "list the tasks, or show examples of one")
    parser.add_argument("task", nargs="?", help="show this task")
    # Not both: examples are for eyes.
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--show", type=int, default=0, metavar="N", help="print the first N examples")
    how.add_argument("--json", action="store_true", help="print what is known of the tasks, or of one, as JSON")
    parser.add_argument(
        "--files", action="store_true", help="print local files with examples, SHA-256 and what is known"
    )
    parser.add_argument("--model", help="also show the examples as this model's tokenizer cuts them (hub id or folder)")
    parser.add_argument("--split", default="train", help="split to show (default: train)")
    parser.add_argument("--language", help="language to show (default: English)")
    parser.add_argument("--intermediate", type=Path, help="folder of the intermediate tasks' files")
    parser.add_argument("--xtreme", type=Path, help="XTREME's download folder")
    parser.add_argument(
        "--translated", type=Path, help="folder of translated tasks such as mnli.de, DIR/<language>/..."
    )
    parser.add_argument("--text", type=Path, help="folder of <language>.txt files (task mlm)")
    parser.add_argument("--code", type=Path, help="folder of the code benchmarks' files")
    parser.add_argument(
        "--tasks-from", type=Path, action="append", default=[], metavar="FILE", help="file with tasks (repeatable)"
    )
    add("noise", "noise:add_arguments", "write noisy test sets of a task as files in the benchmark's layout")
    add("checklist", "checklist:add_arguments", "write MultiCheckList's cases from its table of templates")


def _add_programs(add: Add) -> None:
    programs = "run programs that a model wrote in a sandbox and write a verdict for each"
    add("execute", "execute:add_arguments", programs)
    vectors = "write the sentence vectors of a text file, on all ranks, resumed where it stopped"
    add("embed", "mining:add_embed", vectors)
    add("mine", "mining:add_mine", "mine pairs of translations from two sides (texts or vectors), on all ranks")
    add("search", "mining:add_search", "find the nearest neighbours of each row of one side in another, on all ranks")


def _add_machine(add: Add) -> None:
    completion_help = "print a script that completes verbs, options, recipes, tasks and phases in a shell"
    completion.add_arguments(add("completion", completion.print_script, completion_help))
    add("schema", schema, "print the recipe's JSON schema, for editors")
    parser = add(
        "doctor", doctor, "check this machine: versions, ranks, collectives, memory, disk, and what fits on it"
    )
    parser.add_argument("recipe", nargs="?", help=f"also name the ZeRO stage and batch for {recipes_help()}")
    add_overrides(parser)
    parser.add_argument(
        "--trial", action="store_true", help="measure a few steps of the recipe's largest phase for that"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser = add("bench", bench, "time kernels, mining, training and others, and compare with what there is elsewhere")
    # Options of a benchmark are its own parser's; this one only splits them off.
    names = f"name ({', '.join(BENCHMARKS)}; default: kernels) and options of the benchmark; `NAME -h` lists them"
    parser.add_argument("options", nargs=argparse.REMAINDER, help=names)


def run(given: argparse.Namespace) -> int:
    from stilts_launcher.execute_run import execute_run
    from stilts_launcher.start import run_of, run_recipe

    started = time.monotonic()
    recipe = recipe_of(given)
    status = run_recipe(recipe, phases=given.phase)
    # Started by torchrun, mpirun or a cluster's launcher, this line runs on every rank; one of them writes the report.
    if status == 0 and _rank_0():
        folder = run_of(recipe)
        execute_run(folder)
        finish(folder)
        # Worlds have a log for each phase.
        logs = folder.logs / "rank-0.log" if recipe.launch.worlds == 1 else folder.logs
        say(f"Log: {logs}\ndone in {duration(time.monotonic() - started)}")
    return status


def _rank_0() -> bool:
    return os.environ.get("RANK", "0") == "0"


def train(given: argparse.Namespace) -> int:
    from stilts_launcher.start import run_recipe

    return run_recipe(recipe_of(given), only="train", phases=given.phase)


def plan(given: argparse.Namespace) -> int:
    from stilts_launcher.show.plan import show_plan

    if given.ranks is not None and given.ranks < 1:
        raise UserError(f"--ranks {given.ranks}: give one rank or more")
    say(show_plan(recipe_of(given), given.ranks, given.gpu_memory, given.trial, given.json, given.phases))
    return 0


def fetch(given: argparse.Namespace) -> int:
    from stilts_launcher.fetch import fetch_recipe

    say(fetch_recipe(recipe_of(given)))
    return 0


def evaluate(given: argparse.Namespace) -> int:
    from stilts_ds.model_files import fit_retrieval_length
    from stilts_ds.run_dir import RunDir
    from stilts_launcher.execute_run import execute_run
    from stilts_launcher.recipes import recipe_of_run
    from stilts_launcher.start import run_recipe

    folder = RunDir(given.run_dir)
    status = run_recipe(fit_retrieval_length(recipe_of_run(folder)), only="evaluate")
    if status == 0 and _rank_0():
        execute_run(folder)
    return status


def tasks(given: argparse.Namespace) -> int:
    from stilts_ds.sources.source import DataSource
    from stilts_ds.task_files import add_installed_tasks, add_tasks_from
    from stilts_ds.tasks.registry import TASKS, get_task
    from stilts_launcher.show.tasks import show_examples, show_files, task_card, tasks_json, tasks_table

    add_installed_tasks()
    add_tasks_from(given.tasks_from)
    # Their order is that of DataSource's fields.
    folders = given.intermediate, given.xtreme, given.text, given.translated
    if given.files:
        chosen = TASKS.values() if given.task is None else [get_task(given.task)]
        say(show_files(chosen, DataSource("local", *folders, code=given.code), given.language))
        return 0
    if given.json:
        say(tasks_json(TASKS.values() if given.task is None else [get_task(given.task)]))
        return 0
    if given.task is None:
        say(tasks_table())
        return 0
    task = get_task(given.task)
    say(task_card(task))
    if given.show:
        is_local = any((*folders, given.code, task.directory))
        source = DataSource("local" if is_local else "hub", *folders, code=given.code)
        # Other splits are shown in the pivot language, which every task has; training may be in another one.
        language = given.language or (task.train_language if given.split == "train" else task.pivot)
        shown = show_examples(task, given.split, language, source, given.show, given.model)
        say(shown)
    return 0


def schema(given: argparse.Namespace) -> int:
    from stilts_launcher.show.schema import recipe_schema

    say(json.dumps(recipe_schema(), indent=1))
    return 0


def doctor(given: argparse.Namespace) -> int:
    from stilts_launcher.doctor import examine

    if given.recipe is None and given.trial:
        raise UserError("--trial needs a recipe")
    return examine(recipe_of(given) if given.recipe else None, given.trial, given.json)


def bench(given: argparse.Namespace) -> int:
    bench_folder = Path(__file__).resolve().parents[2] / "kernels" / "bench"  # in a checkout that is not installed
    if bench_folder.is_dir():
        sys.path.insert(0, str(bench_folder))
    named = given.options[:1] and given.options[0] in BENCHMARKS
    name, options = (given.options[0], given.options[1:]) if named else ("kernels", given.options)
    return int(import_module(BENCHMARKS[name]).main(options))


if __name__ == "__main__":
    sys.exit(main())
