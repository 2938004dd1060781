"""What is handed to Slurm, without a Slurm: commands for three kinds of site, the scripts, profiles and bad input."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import ranks
import study
from stilts_launcher.backends.base import CurrentJob, Job, rank_program, script
from stilts_launcher.backends.registry import load_profile
from stilts_launcher.backends.slurm import (
    Slurm,
    sbatch_command,
    seconds_of,
    seconds_of_limit,
    srun_command,
    step_environment,
    submission_environment,
    submitted_id,
)
from stilts_launcher.cluster import Profile
from stilts_launcher.supervise import STOPPED, Supervisor

from stilts_ds.errors import UserError
from stilts_ds.run_dir import RunDir, write_json

GOLDEN = ranks.ROOT / "tests" / "golden"
PROFILES = ranks.ROOT / "slurm" / "profiles"
SITES = sorted(path.stem for path in PROFILES.glob("*.yaml"))


@pytest.mark.parametrize("site", SITES)
def test_the_commands_of_a_site_are_as_written_down(site: str, tmp_path: Path) -> None:
    """To accept a change: write the text shown into tests/golden."""
    shown = study.stilts(tmp_path, "submit", "study.yaml", "--cluster", PROFILES / f"{site}.yaml", "--dry-run")
    ids = study.phase_ids(tmp_path / "runs" / "study")
    for number, phase in enumerate(ids):
        shown = shown.replace(phase, f"PHASE{number}")
    profile = load_profile(PROFILES / f"{site}.yaml")
    step = shlex.join(srun_command(rank_program({"STILTS_PYTHON": "python"}, ["RUN", "PHASE"]), profile.container))
    text = shown.replace(str(tmp_path / "runs" / "study"), "RUN").replace(str(ranks.ROOT), "CHECKOUT") + step + "\n"
    assert text == (GOLDEN / f"submit_{site}.txt").read_text()
    assert not (tmp_path / "runs" / "study" / "jobs" / "jobs.json").exists()


@pytest.mark.parametrize("kind", ["prepare", "intermediate", "target", "report", "run"])
def test_the_scripts_are_clean_bash(kind: str) -> None:
    subprocess.run(["bash", "-n", str(script(kind))], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(script(kind))], check=True)


@pytest.mark.parametrize(
    "line, problem",
    [
        ("partitoin: gpu", "unknown key 'partitoin'; did you mean partition"),
        ("time: 24", "give hours:minutes:seconds"),
        ('time: "1 day"', "give hours:minutes:seconds"),
        ('partition: "a\\nb"', "control characters"),
        ("extra: [nice]", "'nice' is no option; write --option=value"),
        ("extra: [--dependency=afterok:7]", "would override the plan's own --dependency"),
        ("extra: [--arr=0-3]", "would override the plan's own --array"),
        ("jobs: {target: {extra: [--no-requeue]}}", "would override the plan's own --no-requeue"),
        ("extra: [--wait]", "would override the plan's own --wait"),
        ("extra: [--time=5]", "extra: '--time=5' would pass by the profile's key `time`; set that one"),
        ("extra: [--ntasks-per=4]", "would pass by the profile's key `ntasks_per_node`"),
        ("{time: 00:05:00, stop_seconds: 300}", "intermediate jobs of 00:05:00 save 300 s before their end"),
        ("{time: 01:00:00, jobs: {target: {time: '5'}}}", "target jobs of 5 save 300 s before their end"),
        ("nodes: 0", "nodes"),
        ("jobs: {traget: {nodes: 1}}", "jobs.traget"),
        ("jobs: {target: {account: x}}", "unknown key 'account'"),
        ("container: {runtime: docker, image: x}", "container.runtime"),
        ("- a list", "must hold keys and values"),
    ],
)
def test_a_bad_profile_is_refused_by_name(line: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(line)
    with pytest.raises(UserError) as error:
        load_profile(path)
    assert problem in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    "line, key, value",
    [
        ("time: 24:00:00", "time", "24:00:00"),  # a number in base 60 in YAML 1.1
        ("time: 1-00:30:00", "time", "1-00:30:00"),
        ("mem: 64000", "mem", "64000"),
        ("gpus_per_node: a100:4", "gpus_per_node", "a100:4"),
        ("gpus_per_node: '4'", "gpus_per_node", 4),
        ("account: 0815", "account", "0815"),
        ("qos: no", "qos", "no"),
        ("setup: module load cuda", "setup", ["module load cuda"]),
        ("jobs: {target: {mem: 64000, time: 2:00:00}}", "jobs", {"target": {"mem": 64000, "time": "2:00:00"}}),
    ],
)
def test_values_of_a_profile_are_read_as_they_are_meant(line: str, key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(line)
    profile = load_profile(path)
    assert getattr(profile, key) == value
    assert profile.resources("target").mem in (None, "64000")
    assert profile.resources("target").tasks == (4 if key == "gpus_per_node" else 1)
    assert profile.resources("report").tasks == 1


@pytest.mark.parametrize("name", ["a b", "a;touch x", "a'b", "a\nb", "$(touch x)", "../up", ""])
def test_a_run_name_that_a_shell_or_slurm_could_misread_is_refused(name: str, tmp_path: Path) -> None:
    shown = study.stilts(
        tmp_path, "submit", "study.yaml", f"name={name!r}", "--cluster", PROFILES / "cpu.yaml", "--dry-run", fails=True
    )
    assert "name" in shown and "Traceback" not in shown
    assert not (tmp_path / "x").exists()


def test_values_with_spaces_quotes_and_percent_signs_stay_one_argument() -> None:
    run = Path("/data/50% done/it's; rm -rf x")
    profile = Profile(partition="a b", account="x; y", extra=["--comment=it's $HOME"])
    command = sbatch_command(Job("target", "n", run, ("p",)), profile, script("target"))
    assert {"--partition=a b", "--account=x; y", "--comment=it's $HOME"} <= set(command)
    assert "--output=/data/50%% done/it's; rm -rf x/logs/n-%A_%a.log" in command
    assert command[-2:] == [str(run), "p"]


def test_without_slurm_the_message_says_what_works(tmp_path: Path) -> None:
    shown = study.stilts(
        tmp_path,
        "submit",
        "study.yaml",
        "--cluster",
        PROFILES / "cpu.yaml",
        fails=True,
        environment={"PATH": "/nonexistent"},
    )
    assert "sbatch is not on this machine; `stilts run` works without Slurm" in shown


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("1:00", 60),
        ("2:03:04", 7384),
        ("1-00:00:00", 86400),
        ("30", 30),
        ("UNLIMITED", None),
        ("NOT_SET", None),
        ("", None),
    ],
)
def test_slurms_times_are_read(text: str, seconds: int | None) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text, seconds",
    [("30", 1800), ("1:30", 90), ("2:03:04", 7384), ("1-2", 93600), ("1-02:03", 93780), ("UNLIMITED", None)],
)
def test_a_time_limit_is_read_as_sbatch_does(text: str, seconds: int | None) -> None:
    assert seconds_of_limit(text) == seconds


@pytest.mark.parametrize(
    "printed, job",
    [("17", "17"), ("17;cluster", "17"), ("Your project has 3 % of its quota left\n17", "17"), ("17\nthanks!", "17")],
)
def test_the_id_of_a_job_is_found_among_a_sites_own_lines(printed: str, job: str) -> None:
    assert submitted_id(printed) == job


def test_an_sbatch_without_an_id_is_quoted() -> None:
    with pytest.raises(UserError, match="no id of a job, but 'handed in, thanks'"):
        submitted_id("handed in, thanks")


def test_ranks_get_what_the_job_has_whatever_the_site_exports() -> None:
    given = {"SLURM_EXPORT_ENV": "NONE", "STILTS_RUN_TOKEN": "t"}
    assert step_environment(given) == {"STILTS_RUN_TOKEN": "t"}  # and no number of cores: that is Slurm's choice
    asked = step_environment({**given, "SLURM_CPUS_PER_TASK": "8"})
    assert (asked["SRUN_CPUS_PER_TASK"], asked["OMP_NUM_THREADS"]) == ("8", "8")
    assert step_environment({"SLURM_CPUS_PER_TASK": "8", "OMP_NUM_THREADS": "2"})["OMP_NUM_THREADS"] == "2"


def test_jobs_take_neither_an_outer_jobs_shape_nor_defaults_that_end_them_early() -> None:
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "physics", "PATH": "/bin"}
    outer = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "50", "SRUN_CPUS_PER_TASK": "4"}
    defaults = {"SBATCH_NO_REQUEUE": "1", "SBATCH_OPEN_MODE": "t", "SBATCH_ARRAY_INX": "1-9", "SBATCH_WAIT": "1"}
    assert submission_environment({**kept, **outer, **defaults}) == kept


def supervisor(tmp_path: Path, restart: int, attempts: list[dict[str, object]], **profile: int) -> Supervisor:
    """A phase of a run folder as its job sees it; `attempts` are those noted so far."""
    run = RunDir(tmp_path)
    run.jobs.mkdir()
    run.profile.write_text("".join(f"{key}: {value}\n" for key, value in profile.items()))
    write_json(run.jobs / "attempts" / "phase.json", attempts)
    return Supervisor(run, "phase", {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": str(restart)})


def at(step: int, restart: int) -> dict[str, object]:
    return {"job": "17", "restart": restart, "at": [False, f"step-{step:06d}", 0]}


def test_a_job_is_continued_only_so_often(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert supervisor(tmp_path, 2, [at(5, 1), at(9, 2)], max_requeues=2)._continue_later() == STOPPED
    assert "continued 2 times already (max_requeues)" in capsys.readouterr().out


def test_slices_without_progress_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = {"job": "17", "at": [False, "", 0]}
    job = supervisor(tmp_path, 1, [{**nowhere, "restart": 0}, {**nowhere, "restart": 1}], max_requeues=9)
    assert job._continue_later() == STOPPED
    assert "two slices in a row made no progress" in capsys.readouterr().out


def test_a_crashing_job_starts_its_ranks_again_only_so_often(tmp_path: Path) -> None:
    job = supervisor(tmp_path, 1, [at(1, 0), at(2, 1), at(3, 1)], max_restarts=1)
    assert job._give_up() == "started again 1 time (max_restarts)"  # the attempt before the requeue does not count


def test_a_dry_run_leaves_the_profile_of_a_submitted_run_alone(tmp_path: Path) -> None:
    kept = tmp_path / "runs" / "study" / "jobs" / "profile.yaml"
    kept.parent.mkdir(parents=True)
    kept.write_text("nodes: 7\n")
    study.stilts(tmp_path, "submit", "study.yaml", "--cluster", PROFILES / "cpu.yaml", "--dry-run")
    assert kept.read_text() == "nodes: 7\n"


def test_a_job_knows_its_id() -> None:
    slurm, element = Slurm(), {"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}
    assert slurm.current_job({"SLURM_JOB_ID": "17"}) == CurrentJob("17", 0)
    assert slurm.current_job({**element, "SLURM_RESTART_COUNT": "2"}) == CurrentJob("17_3", 2)
    with pytest.raises(UserError, match="this is no Slurm job"):
        slurm.current_job({})
