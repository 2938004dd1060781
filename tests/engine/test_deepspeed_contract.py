"""Each start tries what training relies on in DeepSpeed, and refuses a version that does otherwise."""

from __future__ import annotations

import pytest
import ranks
from engine_runs import run

REFUSED = {
    "norm lost": "the norm of a gradient with NaN is",
    "norm lost at 3": "the norm of a gradient with NaN is",
    "rounded": "it does not start from the exact weights of a model",
    "scaled": "the norm of a gradient is",
    "renamed": "AttributeError: no attribute 'single_partition_of_fp32_groups'",
    "moments": "weights and moments that are set are not those that are read",
}


@pytest.mark.processes
@pytest.mark.parametrize("size", [1, pytest.param(2, marks=pytest.mark.long)])
def test_what_deepspeed_does_is_tried_at_every_stage_and_faults_are_refused(size: int) -> None:
    """Our own flag stands in for a norm that was lost, so only without both is such a version refused."""
    lines = [line.split("|") for line in run(ranks.PROGRAMS / "contract_ranks.py", ranks=size).splitlines()]
    answers = {line[0]: line[1] for line in lines if len(line) == 2}
    assert len(answers) == 14
    for name, answer in answers.items():
        if name not in REFUSED:
            assert answer == "as it should be", (name, answer)
            continue
        assert REFUSED[name] in answer, (name, answer)
        assert "does not train as this program relies on (stage " in answer
        assert "pip install 'deepspeed>=0.19.8,<0.20'" in answer
