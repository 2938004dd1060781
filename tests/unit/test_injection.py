"""Shell text and arguments for Slurm: names, paths and values of any kind run nothing. Real bash, no Slurm."""

from __future__ import annotations

import random
import shlex
import subprocess
from pathlib import Path

import pytest
from stilts_launcher import submit
from stilts_launcher.backends.base import Job, script
from stilts_launcher.backends.slurm import sbatch_command, srun_command
from stilts_launcher.cluster import Container, Profile
from stilts_launcher.submit import setup_text

from stilts_ds.config import parse_recipe, recipe_yaml
from stilts_ds.errors import UserError
from stilts_ds.plan_file import Phase, Plan
from stilts_ds.planner import make_plan
from stilts_ds.run_dir import RunDir, write_atomically, write_json

CANARY = "canary"
TOUCH = f"touch {CANARY}"
HOSTILE = (
    f"$({TOUCH})", f"`{TOUCH}`", f"; {TOUCH};", f"' ; {TOUCH} ; '", f'" ; {TOUCH} ; "', f"| {TOUCH}", f"&& {TOUCH}",
    f"${{x:-$({TOUCH})}}", f"\\'; {TOUCH} #", f"<({TOUCH})", "*", "?", "~", "!!", "#", "--wrap=touch canary", "-c",
    f"a b\t{TOUCH}", "$HOME", "é ü 語", "%j", "{a,b}", "a=b", "$'\\n'",
)  # fmt: skip
KEYS = ("partition", "account", "qos", "reservation", "constraint", "mem", "python")
LINES = (f"x\n{TOUCH}\n", f"x\r\n#SBATCH --wrap={TOUCH}")


def text(dice: random.Random) -> str:
    return "".join(dice.choice((*HOSTILE, "a", "gpu", "/", " ")) for _ in range(dice.randint(1, 3)))


def profiles(count: int) -> list[Profile]:
    """Profiles of hostile values; what would be several lines or another option is refused and left out."""
    dice, found = random.Random(5), []
    while len(found) < count:
        values = {key: text(dice) for key in KEYS}
        image = {"runtime": dice.choice(("apptainer", "pyxis")), "image": text(dice), "mounts": [text(dice)]}
        extra = [f"--comment={text(dice)}"]
        try:
            found.append(Profile(**values, extra=extra, container=Container(**image)))
        except ValueError:
            continue
    return found


def bash(program: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    subprocess.run(["bash", "-n", str(program)], check=True)
    return subprocess.run(["bash", str(program)], cwd=folder, capture_output=True, text=True, check=True)


@pytest.mark.processes
def test_the_commands_that_a_dry_run_prints_run_nothing_but_sbatch(tmp_path: Path) -> None:
    """Pasted into a shell, each word arrives as it was meant; one start of bash for all of them."""
    lines, expected = [f"sbatch() {{ printf '%s\\0' \"$@\" >> {CANARY}.words; printf '\\1' >> {CANARY}.words; }}"], []
    for number, profile in enumerate(profiles(200)):
        dice = random.Random(number)
        run = tmp_path / "runs" / text(dice).replace("/", "")
        job = Job("target", f"study-{number}", run, ("a", "b"), ("1_0",))
        command = sbatch_command(job, profile, Path("/slurm/target.sbatch"))
        lines.append(shlex.join(command))
        expected.append(command[1:])
    program = tmp_path / "program.sh"
    program.write_text("\n".join(lines))
    bash(program, tmp_path)
    calls = (tmp_path / f"{CANARY}.words").read_bytes().decode().split("\1")[:-1]
    assert [call.split("\0")[:-1] for call in calls] == expected
    assert not (tmp_path / CANARY).exists()


@pytest.mark.processes
@pytest.mark.parametrize("word", HOSTILE[:4])
def test_without_quotes_the_canary_would_be_there(word: str, tmp_path: Path) -> None:
    """The payloads work: what the tests above look for can happen."""
    program = tmp_path / "program.sh"
    program.write_text(f"echo '{word}'\n" if word.startswith("'") else f"echo {word}\n")
    subprocess.run(["bash", str(program)], cwd=tmp_path, capture_output=True)
    assert (tmp_path / CANARY).exists()


def test_options_stay_options_and_the_script_comes_after_them() -> None:
    for profile in profiles(100):
        command = sbatch_command(Job("target", "study", Path("/runs/study"), ("a",)), profile, Path("/s.sbatch"))
        at = command.index("/s.sbatch")
        assert all(word.startswith("--") for word in command[2:at]) and command[at + 1 :] == ["/runs/study", "a"]
        srun = srun_command(["python", "-m", "stilts_launcher.rank", "RUN", "PHASE"], profile.container)
        assert not any(word.startswith("-") for word in srun[srun.index("python") + 4 :])


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_several_lines_is_refused(key: str, line: str) -> None:
    with pytest.raises(ValueError, match="control characters"):
        Profile(**{key: line})


def test_an_image_is_no_option_of_the_container_runtime() -> None:
    with pytest.raises(ValueError, match="read as an option"):
        Container(runtime="apptainer", image="--writable")


def planned_run(folder: Path) -> RunDir:
    """A run folder with a recipe and no code of its own."""
    recipe = parse_recipe({"name": "study", "targets": ["xnli"], "output_dir": str(folder)}, "test")
    run = RunDir(folder)
    write_atomically(run.recipe, recipe_yaml(recipe))
    run.jobs.mkdir(parents=True)
    return run


@pytest.mark.processes
def test_the_setup_file_and_the_batch_scripts_run_only_what_the_site_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real scripts, with the real setup.sh, in run folders of hostile names: only `python` is called, with exactly
    the run folder and the phase as words."""
    stub = tmp_path / "python stub'$x"
    stub.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >> "$WORDS"; printf "\\1" >> "$WORDS"\n')
    stub.chmod(0o755)
    monkeypatch.setattr(submit, "snapshot", lambda run: run.jobs / f"code-$({TOUCH})")
    lines, expected = ["set -e", "export WORDS=$PWD/words"], []
    for number, name in enumerate((*HOSTILE, "plain", *LINES)):
        folder = tmp_path / "runs" / f"{number} {name}".replace("/", "")
        run = planned_run(folder)
        profile = Profile(setup=["export SITE=1"], python=str(stub))
        (run.jobs / "setup.sh").write_text(setup_text(run, profile))
        for kind, module in (("target", "supervise"), ("intermediate", "supervise"), ("report", "cli")):
            phase = [] if kind == "report" else [f"{kind}-a-0123456789ab"]
            lines.append(f"( source {shlex.quote(str(script(kind)))} {shlex.join([str(folder), *phase])} )")
            words = ["-m", f"stilts_launcher.{module}", *(["report"] if kind == "report" else []), str(folder), *phase]
            expected.append(words)
    program = tmp_path / "program.sh"
    program.write_text("\n".join(lines))
    bash(program, tmp_path)
    calls = (tmp_path / "words").read_bytes().decode().split("\1")[:-1]
    assert [call.split("\0")[:-1] for call in calls] == expected
    assert not list(tmp_path.rglob(CANARY))


@pytest.mark.processes
def test_a_phase_chosen_by_array_index_is_one_word(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    stub = tmp_path / "python"
    stub.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    done = subprocess.run(
        ["bash", str(script("target")), str(tmp_path / "run"), "first", f"$({TOUCH}) x"], capture_output=True,
        text=True, check=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "STILTS_PYTHON": str(stub), "SLURM_ARRAY_TASK_ID": "1"},
    )  # fmt: skip
    assert done.stdout.splitlines()[-2:] == [str(tmp_path / "run"), f"$({TOUCH}) x"]
    assert not (tmp_path / CANARY).exists()


NAMES = (*HOSTILE, *LINES, "../up", "/abs", "..", ".hidden", "a/b", "", "a" * 65, "-x", "a\0b", "CON:", "a\\b")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_become_folders_and_jobs_are_plain(name: str) -> None:
    """Recipe names, conditions and tasks, and ids of phases in a plan."""
    with pytest.raises(UserError):
        parse_recipe({"name": name, "targets": ["xnli"]}, "test")
    for more in ({"intermediate": {name: ["mnli"]}}, {"targets": [name]}, {"intermediate": {"a": [f"mnli.{name}"]}},
                 {"task_training": {name: {}}}, {"data": {"train_split": {name: "dev"}}}):  # fmt: skip
        with pytest.raises(UserError):
            recipe = parse_recipe({"name": "study", "targets": ["xnli"], **more}, "test")
            make_plan(recipe, "model", lambda task: task)


@pytest.mark.parametrize("name", ["../../up", "a/b", "/etc/x", "", "..", f"x;{TOUCH}", "x\n", "-x"])
def test_a_plan_whose_ids_are_no_names_is_refused(name: str, tmp_path: Path) -> None:
    plan = make_plan(parse_recipe({"name": "study", "targets": ["xnli"]}, "test"), "model", lambda task: task).to_json()
    write_json(tmp_path / "plan.json", plan)
    assert isinstance(Plan.load(tmp_path / "plan.json").phases[0], Phase)
    plan["phases"][0]["id"] = name
    plan["use"]["none"] = [name]
    write_json(tmp_path / "plan.json", plan)
    with pytest.raises(UserError, match="plan.json: phases"):
        Plan.load(tmp_path / "plan.json")
