"""The command line itself: help in groups with examples that parse, completion in shells, and what `--help` loads."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from stilts_launcher.cli import build_parser, main
from stilts_launcher.completion import SHELLS
from stilts_launcher.examples import EXAMPLES
from stilts_launcher.parser import Parser

VERBS = [name for listed in build_parser().groups.values() for name, _ in listed]
COMMANDS = [(verb, line) for verb, lines in EXAMPLES.items() for line in lines]


def test_every_verb_stands_in_a_group_of_the_help_and_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert sorted(EXAMPLES) == sorted(["", *VERBS])
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    for title in ("Studies:", "Results:", "Clusters:", "Publishing:", "Data:", "This machine:", "Examples:"):
        assert f"\n{title}\n" in shown
    assert all(f"\n  {verb} " in shown for verb in VERBS)
    # A terminal of the usual height and width shows it without a break.
    assert max(map(len, shown.splitlines())) <= 120 and len(shown.splitlines()) <= 70


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_ends_with_its_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([verb, "--help"], ["help", verb]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert shown.endswith("examples:\n" + "".join(f"  {line}\n" for line in EXAMPLES[verb]))


@pytest.mark.parametrize(("verb", "line"), COMMANDS)
def test_examples_are_understood(verb: str, line: str) -> None:
    for command in shlex.join(shlex.split(line, comments=True)).split(" '&&' "):
        words = shlex.split(command)
        if words[0] == "eval":
            words = shlex.split(words[1].strip("$()"))
        words = words[words.index("stilts") + 1 :]
        words = words[: words.index(">")] if ">" in words else words
        cut = 1 if words[0] == "bench" else len(words)
        given, unknown = build_parser(words[0]).parse_known_args(words[:cut])
        assert all("=" in word and not word.startswith("-") for word in unknown), unknown
        assert verb in ("", words[0]) or "&&" in line


def test_an_unknown_verb_is_answered_with_the_nearest_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["stauts"])
    assert ended.value.code == 2 and "no verb 'stauts'; did you mean status" in capsys.readouterr().err


@pytest.mark.processes
def test_help_loads_nothing_that_is_slow() -> None:
    # Seconds depend on the machine; what takes them is the same everywhere.
    slow = ("torch", "numpy", "pydantic", "yaml", "pandas", "rich", "stilts_ds.config", "stilts_ds.execute")
    program = f"""
import sys
from stilts_launcher.cli import main
try: main(["--help"])
except SystemExit: pass
print([name for name in {slow!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ranks.environment())
    assert done.stderr.strip() == "[]" and "Studies:" in done.stdout


@pytest.mark.processes
@pytest.mark.parametrize("shell", SHELLS)
def test_there_is_a_completion_script_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    program = shutil.which(shell)
    assert "stilts" in script
    if program is not None:  # the shell itself says whether it is a script of its own
        read = subprocess.run([program, "-n"], input=script, capture_output=True, text=True)
        assert read.returncode == 0 and not read.stderr, read.stderr


COMPLETE = """
eval "$(stilts completion bash)"
complete_line() {
  COMP_LINE="$1" COMP_POINT=${#1} COMP_TYPE=9 COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  COMPREPLY=()
  _python_argcomplete stilts "$2" "$3"
  echo "${COMPREPLY[*]}"
}
complete_line "stilts sta" sta stilts
complete_line "stilts run quick" quick run
complete_line "stilts logs study --fol" --fol study
complete_line "stilts logs study mnli/seed1/x" mnli/seed1/x study
complete_line "stilts tasks panx" panx tasks
complete_line "stilts status stu" stu status
"""


@pytest.fixture(scope="module")
def typing_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the command in `bin` and a planned run `study`, as a shell that completes finds them."""
    folder = tmp_path_factory.mktemp("typing")
    (folder / "bin").mkdir()
    command = folder / "bin" / "stilts"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m stilts_launcher.cli "$@"\n')
    command.chmod(0o755)
    words = ["plan", "quickstart", "name=study", "intermediate={mnli: [mnli]}", "targets=[xnli]"]
    plan = subprocess.run(
        [str(command), *words], cwd=folder, env=ranks.environment(), capture_output=True, text=True, timeout=300
    )
    assert plan.returncode == 0, plan.stderr
    return folder


def typed(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = ranks.environment(PATH=f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", HOME=str(folder))
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash_completes_verbs_options_recipes_tasks_runs_and_phases(typing_folder: Path) -> None:
    done = typed(typing_folder, "bash", "--norc", "-c", COMPLETE)
    answers = [line.split() for line in done.stdout.splitlines()]
    wanted = [["status"], ["quickstart"], ["--follow"], ["mnli/seed1/xnli"], ["panx"], ["study"]]
    assert answers == wanted, done.stdout + done.stderr


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
def test_a_real_fish_completes_them_too(typing_folder: Path) -> None:
    lines = ["stilts sta", "stilts run quick", "stilts logs study mnli/seed1/x"]
    script = "; ".join(["stilts completion fish | source", *(f'complete -C "{line}"' for line in lines)])
    done = typed(typing_folder, "fish", "--no-config", "-c", script)
    assert done.stdout.split() == ["status", "quickstart", "mnli/seed1/xnli"], done.stdout + done.stderr


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_a_real_zsh_takes_the_script_for_the_command(typing_folder: Path) -> None:
    script = 'autoload -Uz compinit; compinit -u -D; eval "$(stilts completion zsh)"; echo ${_comps[stilts]}'
    done = typed(typing_folder, "zsh", "-f", "-c", script)
    assert done.stdout.strip() == "_python_argcomplete", done.stdout + done.stderr


def test_a_parser_of_one_verb_declares_the_options_of_that_verb() -> None:
    parser = build_parser("mine")
    assert isinstance(parser, Parser)
    assert parser.parse_args(["mine", "a", "b", "--model", "m", "-o", "c"]).k == 4
