"""The extension in C++: built, missing, or of other sources."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from stilts_kernels.topk.int8 import library

SETS = library.instruction_sets()
pytestmark = pytest.mark.skipif(not SETS, reason=library.problem() or "no int8 screen")


def test_an_extension_that_is_missing_or_of_other_sources_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = library.built_file()
    assert built is not None and library.source_hash() and not library.source_hash(tmp_path)
    monkeypatch.setattr(library, "source_hash", lambda: "0" * 16)
    library.opened.cache_clear()
    assert "was built from other sources: build it again" in library.problem()
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    library.opened.cache_clear()
    assert library.problem() == "the extension is not built: python setup.py build_ext --inplace, with a C++ compiler"
    (tmp_path / built.name).write_text("torn", encoding="utf-8")
    library.opened.cache_clear()
    assert "cannot be loaded" in library.problem()
    monkeypatch.undo()
    library.opened.cache_clear()
    assert not library.problem()


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize("compiler", ["g++", "clang++", "/nonexistent/c++"])
def test_setup_builds_the_extension_or_goes_on_without(compiler: str, tmp_path: Path) -> None:
    if compiler == "clang++" and shutil.which(compiler) is None:
        pytest.skip("needs clang++")
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-lib",
        tmp_path,
        "--build-temp",
        tmp_path / "temp",
    ]
    environment = {**ranks.environment(), "CC": compiler, "CXX": compiler}
    done = subprocess.run(command, cwd=ranks.ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    built = list(tmp_path.glob("stilts_kernels/topk/int8/_screen*.so"))
    assert len(built) == (0 if "nonexistent" in compiler else 1)
    if built:
        assert ctypes.CDLL(str(built[0])).instruction_sets() == library.loaded().instruction_sets()
