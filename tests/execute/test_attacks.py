"""No hostile program passes, harms or stays: the whole list, as root and as an ordinary user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hostile
import pytest
import ranks
from sandboxes import needs_sandbox, skip_without

pytestmark = pytest.mark.processes

BATTERY = ranks.ROOT / "tests/helpers/battery.py"
NOBODY = 61234  # an id outside the range that workers take, for the ordinary user
SHORT = {  # every kind of attack once, where all would take too long
    "python": (
        "equal to everything",
        "_exit when called",
        "sleeps",
        "forks",
        "memory",
        "reads a secret",
        "kills another process",
        "leaves a daemon",
        "connects by TCP",
        "a user namespace of its own",
    )
}


@pytest.fixture
def readable_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="stilts-attacks-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def battery(folder: Path, attacks: list[list[str]], python: str = sys.executable, **options: Any) -> dict[str, Any]:
    """Run the attacks in a process that is held from outside, and return what it saw."""
    given = folder / "attacks.json"
    given.write_text(json.dumps({"attacks": attacks, "workers": 2}))
    command = [python, str(BATTERY), str(given)]
    environment = {**os.environ, "PYTHONPATH": str(ranks.ROOT), **options.pop("env", {})}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=environment, start_new_session=True, **options
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def rows(language: str, names: tuple[str, ...] | None = None) -> list[list[str]]:
    chosen = names or tuple(hostile.ATTACKS[language])
    attacks = [[language, name, hostile.ATTACKS[language][name], hostile.TESTS[language]] for name in chosen]
    return [*attacks, [language, "honest", hostile.HONEST[language], hostile.TESTS[language]]]


def check(seen: dict[str, Any], language: str) -> None:
    """Only the honest program passes, nothing was got at, nothing is left a second later."""
    verdicts = seen["verdicts"]
    assert [name for name, verdict in verdicts.items() if verdict[0] == "passed"] == [f"{language}: honest"]
    assert [name for name, verdict in verdicts.items() if "HARM" in verdict[1]] == []
    assert seen["harm"] == []
    assert seen["left"] == []


def test_the_list_holds_at_least_48_attacks_and_their_twins_in_six_languages() -> None:
    assert len(hostile.ATTACKS["python"]) >= 48
    assert len(hostile.ATTACKS) - 1 >= 6
    for name, text in hostile.ATTACKS["python"].items():
        compile(text.replace("VICTIM", "1").replace("PORT", "1"), name, "exec")


@needs_sandbox
@pytest.mark.slow
def test_no_python_attack_passes_harms_or_stays(readable_folder: Path) -> None:
    check(battery(readable_folder, rows("python")), "python")


@needs_sandbox
def test_an_attack_of_every_kind_neither_passes_nor_harms(readable_folder: Path) -> None:
    seen = battery(readable_folder, rows("python", SHORT["python"]))
    check(seen, "python")
    assert seen["verdicts"]["python: equal to everything"][0] == "wrong-type"
    assert seen["verdicts"]["python: sleeps"][0] == "timeout"
    if os.getuid() == 0:
        assert seen["uids"] and 0 not in seen["uids"]


def battery_of_a_user(folder: Path, attacks: list[list[str]]) -> dict[str, Any]:
    """As an ordinary user, with the system's Python and a copy of the package alone: it needs nothing else."""
    if os.getuid() != 0:
        pytest.skip("this is an ordinary user: the other tests are about it")
    if not Path("/usr/bin/python3").exists():
        pytest.skip("needs /usr/bin/python3, which every user may run")
    package = folder / "stilts_ds"
    package.mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copy(ranks.ROOT / "stilts_ds" / name, package)
    shutil.copytree(ranks.ROOT / "stilts_ds/execute", package / "execute", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(BATTERY, folder)
    given = folder / "attacks.json"
    given.write_text(json.dumps({"attacks": attacks, "workers": 2}))
    done = subprocess.run(
        ["/usr/bin/python3", "-B", str(folder / "battery.py"), str(given)],
        capture_output=True,
        text=True,
        timeout=400,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder), "HOME": "/nonexistent"},
        cwd=folder,
        start_new_session=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["uid"] == NOBODY and seen["uids"] == []
    return seen


@needs_sandbox
def test_an_attack_of_every_kind_neither_passes_nor_harms_as_an_ordinary_user(readable_folder: Path) -> None:
    check(battery_of_a_user(readable_folder, rows("python", SHORT["python"])), "python")


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("language", [name for name in hostile.ATTACKS if name != "python"])
def test_no_attack_in_another_language_passes_harms_or_stays(language: str, readable_folder: Path) -> None:
    skip_without(language)
    check(battery(readable_folder, rows(language)), language)


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("language", list(hostile.ATTACKS))
def test_no_attack_passes_harms_or_stays_as_an_ordinary_user(language: str, readable_folder: Path) -> None:
    skip_without(language)
    check(battery_of_a_user(readable_folder, rows(language)), language)
