"""The wheel and the editable install: whole, and usable from any folder. Nothing is downloaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import ranks

from stilts_ds import __version__
from stilts_ds.config import Recipe
from stilts_ds.shipped import shipped_recipes

pytestmark = pytest.mark.processes

ROOT = ranks.ROOT
INSTALLED_AS = {
    "stilts_ds": "stilts_ds",
    "launcher/stilts_launcher": "stilts_launcher",
    "kernels/stilts_kernels": "stilts_kernels",
    "kernels/bench/stilts_bench": "stilts_bench",
    "ds_configs": "stilts_ds/ds_configs",
    "slurm": "stilts_launcher/slurm",
}
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "-q")


def call(*command: object, cwd: Path, **variables: str) -> str:
    """Output of a command; its whole output is shown where it fails."""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**clean, **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout


def contents(folder: Path) -> list[str]:
    """Files of a folder, relative to it, less what Python and a compiler left there."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(p.as_posix() for p in found if "__pycache__" not in p.parts and p.suffix != ".so")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: builds leave files behind, and old ones in the checkout must not help."""
    copy = tmp_path_factory.mktemp("sources")
    for folder in INSTALLED_AS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for file in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy / file)
    return copy


@pytest.fixture(scope="module")
def wheel(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", *OFFLINE, "-w", folder, sources, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked installation."""
    target = tmp_path_factory.mktemp("site")
    call(sys.executable, "-m", "pip", "install", *OFFLINE, "--target", target, wheel, cwd=target)
    return target


def test_wheel_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    expected = {f"{name}/{file}" for folder, name in INSTALLED_AS.items() for file in contents(ROOT / folder)}
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    if shutil.which("g++"):
        expected.add("stilts_kernels/topk/int8/_screen.abi3.so")
    assert found == expected
    assert {f"stilts_ds/ds_configs/zero{stage}.json" for stage in range(4)} <= found
    assert {"stilts_ds/recipes/quickstart.yaml", "stilts_ds/py.typed", "stilts_launcher/cli.py"} <= found


def test_wheel_metadata(wheel: Path) -> None:
    # Of any Python 3 and one platform: it may hold the built screen.
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert re.fullmatch(rf"stilts_ds-{re.escape(__version__)}-py3-none-{platform}\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        [metadata] = [archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA")]
    assert any(n.endswith("LICENSE") for n in names)
    assert re.search(r"^License(-Expression)?: Apache-2\.0$", metadata, re.MULTILINE)
    assert "Requires-Python: >=3.10" in metadata


def test_installed_wheel_works_from_another_folder(site: Path, tmp_path: Path) -> None:
    def stilts(*arguments: str) -> str:
        return call(sys.executable, "-m", "stilts_launcher.cli", *arguments, cwd=tmp_path, PYTHONPATH=str(site))

    assert stilts("--version") == f"stilts-ds {__version__}\n"
    assert set(json.loads(stilts("schema"))["properties"]) == set(Recipe.model_fields)
    assert all(name in stilts("run", "--help") for name in shipped_recipes())
    assert "squad_v2" in stilts("tasks")


def test_installed_benchmarks_run(site: Path, tmp_path: Path) -> None:
    """The kernels' own from end to end; the others as far as their help."""

    def bench(*arguments: str) -> str:
        command = (sys.executable, "-m", "stilts_launcher.cli", "bench", *arguments)
        return call(*command, cwd=tmp_path, PYTHONPATH=str(site))

    said = bench("--case", "tatoeba", "--max-size", "50", "--only", "ours", "--rounds", "1", "--out", "x.jsonl")
    assert "tatoeba-max50: 50 x 50" in said and json.loads((tmp_path / "x.jsonl").read_text())["recall"] == 1
    for name in ("pipeline", "training"):
        assert f"stilts bench {name}" in bench(name, "--help")


def test_installed_recipes_and_ds_configs_are_found(site: Path, tmp_path: Path) -> None:
    program = (
        "import json, stilts_ds\n"
        "from importlib.resources import files\n"
        "from stilts_ds.config import load_recipe\nfrom stilts_ds.shipped import shipped_recipes\n"
        "stages = [json.loads((files('stilts_ds') / 'ds_configs' / f'zero{s}.json').read_text())\n"
        "          ['zero_optimization']['stage'] for s in range(4)]\n"
        "print(json.dumps([stilts_ds.__file__, [load_recipe(n).name for n in shipped_recipes()], stages]))\n"
    )
    where, recipes, stages = json.loads(call(sys.executable, "-c", program, cwd=tmp_path, PYTHONPATH=str(site)))
    assert Path(where).is_relative_to(site)
    assert recipes == shipped_recipes()
    assert stages == [0, 1, 2, 3]


def test_editable_install_works_from_another_folder(sources: Path, tmp_path: Path) -> None:
    """In an environment of its own that sees this one's packages."""
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    own = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(own, "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    call(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        *OFFLINE,
        "--ignore-installed",
        "-e",
        sources,
        cwd=elsewhere,
    )
    assert call(environment / "bin" / "stilts", "--version", cwd=elsewhere) == f"stilts-ds {__version__}\n"
    program = (
        "import stilts_ds, stilts_launcher, importlib.util as u\n"
        "print(stilts_ds.__file__, u.find_spec('stilts_kernels') is not None)"
    )
    assert call(python, "-c", program, cwd=elsewhere).split() == [str(sources / "stilts_ds" / "__init__.py"), "True"]
