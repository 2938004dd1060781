"""`stilts init`, profiles by name, and mail."""

from __future__ import annotations

from pathlib import Path

import pytest
import slurm_cluster
from stilts_launcher.backends.base import Job
from stilts_launcher.backends.registry import load_profile
from stilts_launcher.backends.slurm import sbatch_command
from stilts_launcher.cli import main
from stilts_launcher.cluster import Profile
from stilts_launcher.profiles import find_profile, known_profiles
from study import until

from stilts_ds.config import load_recipe
from stilts_ds.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("STILTS_CLUSTER", raising=False)
    return tmp_path


def test_five_questions_write_a_recipe_and_a_profile_that_load(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    answers = iter(["toy", "toy", "mnli, qqp", "", "gpu"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or next(answers))
    assert main(["init", "my-study", "--seeds", "1,2"]) == 0
    assert (
        len(asked) == 5
        and "FacebookAI/xlm-roberta-base" in asked[0]
        and "cpu, gpu" in asked[4].replace("container, ", "")
    )
    recipe = load_recipe("my-study.yaml")
    assert recipe.intermediate == {"none": [], "mnli": ["mnli"], "qqp": ["qqp"]}
    assert (recipe.targets, recipe.seeds, recipe.data.source) == (["xnli", "xquad"], [1, 2], "toy")
    lines = Path("my-study.yaml").read_text().splitlines()
    assert sum(line.startswith("#") for line in lines) >= 8
    assert load_profile(Path("my-study-cluster.yaml")) == load_profile(find_profile("gpu"))
    assert "stilts submit my-study.yaml --cluster my-study-cluster.yaml" in capsys.readouterr().out
    assert main(["init", "my-study", "--yes"]) == 2 and "my-study.yaml exists" in capsys.readouterr().err


def test_nothing_is_asked_without_a_terminal(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda text: pytest.fail(text))
    monkeypatch.setattr("sys.stdin.isatty", lambda: False)
    (here / "a folder").mkdir()
    assert main(["init", "quiet", "--model", "toy", "--targets", "xnli", "--compare", "none"]) == 0
    recipe = load_recipe("quiet.yaml")
    assert (recipe.targets, recipe.intermediate, recipe.data.source) == (["xnli"], {"none": []}, "hub")
    assert not Path("quiet-cluster.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["a/b"], "'a/b' is no name"),
        (["x", "--targets", "xnil"], "targets: unknown task 'xnil'; did you mean xnli"),
        (["x", "--compare", "mnil"], "intermediate.mnil: unknown task 'mnil'"),
        (["x", "--data", "nowhere"], "--data: there is no folder nowhere"),
        (["x", "--seeds", "one"], "seeds"),
        (["x", "--cluster", "gpuu"], "no cluster profile is called 'gpuu'; did you mean gpu"),
    ],
)
def test_a_faulty_answer_writes_nothing(
    options: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", *options, "--yes"]) == 2
    assert message in capsys.readouterr().err
    assert list(here.glob("*.yaml")) == []


def test_profiles_are_found_by_name_the_user_s_own_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"cpu", "gpu", "container"} <= set(known_profiles())
    assert find_profile("./gpu.yaml") == Path("./gpu.yaml")  # a path stays one
    folder = here / "config" / "stilts" / "clusters"
    folder.mkdir(parents=True)
    for name in ("jz", "gpu"):
        (folder / f"{name}.yaml").write_text("partition: mine\n")
        assert load_profile(find_profile(name)).partition == "mine"
    monkeypatch.setenv("STILTS_CLUSTER", "jz")
    assert find_profile(None) == folder / "jz.yaml"
    with pytest.raises(UserError, match=r"no cluster profile is called 'jzz'; did you mean jz.*your own go into"):
        find_profile("jzz")
    monkeypatch.delenv("STILTS_CLUSTER")
    with pytest.raises(
        UserError, match="name a cluster profile with --cluster, or set STILTS_CLUSTER; known: container"
    ):
        find_profile(None)


def mail_options(job: Job, profile: Profile) -> list[str]:
    return [word for word in sbatch_command(job, profile, Path("x.sbatch")) if word.startswith("--mail")]


def test_one_mail_ends_a_study_and_others_tell_of_failures(tmp_path: Path) -> None:
    phases = Job(kind="target", run=tmp_path, name="study-target", phases=("a", "b"))
    report = Job(kind="report", run=tmp_path, name="study-report")
    short = Profile.model_validate({"mail": "me@example.org"})
    assert mail_options(phases, short) == ["--mail-user=me@example.org", "--mail-type=FAIL"]
    assert mail_options(report, short) == ["--mail-user=me@example.org", "--mail-type=END,FAIL"]
    end = Profile.model_validate({"mail": {"to": "me", "on": ["end"]}})
    assert mail_options(phases, end) == [] and mail_options(report, end)[1] == "--mail-type=END"
    assert mail_options(report, Profile()) == []
    for bad in ("me @x", "-me@x", {"to": "me", "on": ["sometimes"]}, {"to": "me", "on": []}):
        with pytest.raises(ValueError, match="mail"):
            Profile.model_validate({"mail": bad})


@pytest.mark.cluster
@pytest.mark.long
@pytest.mark.skipif(slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not()))
def test_a_real_slurm_writes_the_mail_that_a_profile_asks_for(tmp_path: Path) -> None:
    mailer, sent = tmp_path / "mailer", tmp_path / "sent"
    mailer.write_text(f'#!/bin/sh\necho "$@" >> {sent}\n')
    mailer.chmod(0o755)
    events = ["begin", "end", "fail", "requeue"]
    asked = Profile.model_validate({"mail": {"to": "me@example.org", "on": events}})
    options = mail_options(Job(kind="report", run=tmp_path, name="study-report"), asked)
    (tmp_path / "slurm").mkdir()
    with slurm_cluster.running(tmp_path / "slurm", more=f"MailProg={mailer}") as cluster:
        cluster.run("sbatch", *options, "--job-name=study-report", "--output=/dev/null", "--wrap=true", check=True)
        until(
            lambda: sent.exists() and sent.read_text().count("me@example.org") >= 2, "mails of begin and end", tmp_path
        )
    assert "study-report Began" in sent.read_text() and "study-report Ended" in sent.read_text()
