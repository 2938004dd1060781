"""What a package index shows and what pip installs: links that lead somewhere, bounds that were tried, two names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from stilts_ds import versions as versions_module
from stilts_ds.versions import TESTED, untested_versions

ROOT = Path(__file__).resolve().parents[2]
PINNED = dict(
    line.split(";")[0].strip().split("==")
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if "==" in line and not line.startswith("#")
)


def test_tested_versions_are_the_pinned_ones() -> None:
    assert all(PINNED[name] == version for name, version in TESTED.items())


def test_bounds_hold_the_pinned_versions_and_end_above_them() -> None:
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    block = source[source.index("install_requires=[") : source.index("extras_require")]
    named = [Requirement(text) for text in re.findall(r'"([a-z][^"]*)",', block)]
    pins = {canonicalize_name(name): version for name, version in PINNED.items()}
    assert len(named) >= 15
    for requirement in named:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement
    for name in TESTED:
        [bounds] = [r.specifier for r in named if r.name == name]
        assert any(bound.operator == "<" for bound in bounds), name


def test_lists_for_light_installations_name_only_what_the_package_asks_for() -> None:
    source = (ROOT / "setup.py").read_text(encoding="utf-8")
    for name in ("light", "retrieval"):
        lines = (ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8").splitlines()
        packages = [line for line in lines if line and not line.startswith(("#", "-r"))]
        assert packages and all(f'"{package}>=' in source for package in packages)


@pytest.mark.parametrize(("torch", "said"), [("2.13.0+cpu", ""), ("2.13.0", ""), ("2.12.1", "torch 2.12.1 (2.13.0)")])
def test_an_untested_version_is_named_whatever_its_build(
    torch: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions_module, "versions", lambda: {**TESTED, "torch": torch})
    assert said in untested_versions() and bool(said) == bool(untested_versions())


def test_a_library_that_is_not_installed_is_no_untested_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions_module, "versions", lambda: {"python": "3.11"})
    assert untested_versions() == ""


@pytest.mark.processes
def test_a_missing_library_is_said_in_a_sentence() -> None:
    program = (
        "import sys; sys.modules['pydantic'] = None\n"
        "from stilts_launcher.cli import main; sys.exit(main(['plan', 'quickstart']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: this needs pydantic, which is not installed")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("dist")
    clone = tmp_path_factory.mktemp("source") / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "-o", str(folder), str(clone)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.processes
def test_the_source_distribution_holds_every_tracked_file(built: Path) -> None:
    [archive] = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(tracked) - names == set()


@pytest.mark.processes
def test_the_wheel_and_its_page(built: Path) -> None:
    [archive] = built.glob("*.whl")
    with zipfile.ZipFile(archive) as file:
        names = file.namelist()
        [metadata] = [name for name in names if name.endswith("METADATA")]
        text = file.read(metadata).decode()
        commands = file.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert {"stilts = stilts_launcher.cli:main", "stilts-ds = stilts_launcher.cli:main"} <= set(commands.splitlines())
    assert "stilts_ds/report/references.bib" in names and "stilts_launcher/slurm/run.sbatch" in names
    assert not any(name.startswith("tests/") for name in names)
    # One wheel serves every Python 3, and what the compiler made of the extension is named for none.
    assert "-py3-none-" in archive.name
    assert shutil.which("c++") is None or "stilts_kernels/topk/int8/_screen.abi3.so" in names
    # A relative link leads nowhere from a page of the index.
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links and all(link.startswith(("https://", "#")) for link in links)
    assert SpecifierSet(re.search(r"Requires-Python: (.*)", text)[1]).contains("3.13")  # type: ignore[index]
