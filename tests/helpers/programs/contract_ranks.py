"""Try DeepSpeed on these ranks, as it is and with faults that versions of it have had: `contract_ranks.py`.

Rank 0 prints a line for each case: its name, and what was refused.
"""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import torch

from stilts_ds.config import EnginePart
from stilts_ds.engine import contract, zero, zero_state
from stilts_ds.engine.world import World, joined
from stilts_ds.errors import UserError

set_state, finish, combine = zero_state.set_whole_state, contract.finish_step, "combine_grad_norm_groups"


def sentinels(norms: list[torch.Tensor], norm_type: int = 2) -> torch.Tensor:
    """As before 0.19.8: a group that holds NaN has the norm -1, and two such groups that of 1.4."""
    return torch.linalg.vector_norm(torch.stack([norm.float() for norm in norms]))


def renamed(engine: Any) -> None:
    raise AttributeError("no attribute 'single_partition_of_fp32_groups'")


def only_weights(engine: Any, parameter: Any, kind: str, value: torch.Tensor) -> None:
    if kind == "weight":
        set_state(engine, parameter, kind, value)


def cases() -> list[tuple[str, EnginePart, list[Any]]]:
    """Name, settings and the faults that are put on."""
    bf16 = {"dtype": "bf16"}
    whole = [("0 fp32", EnginePart(zero_stage=0))]
    whole += [(f"{stage} auto", EnginePart(zero_stage=stage, dtype="auto")) for stage in (1, 2, 3)]
    whole += [(f"{stage} offload", EnginePart(zero_stage=stage, offload_optimizer=True)) for stage in (2, 3)]
    lost = [patch.object(module, combine, sentinels) for module in (zero.stage_1_and_2, zero.stage3)]
    blind = patch.object(zero, "_look_at_gradients", lambda engine: None)
    return [
        *[(name, part, []) for name, part in whole],
        ("norm lost, flag", EnginePart(zero_stage=2, **bf16), lost),
        ("norm lost at 3, flag", EnginePart(zero_stage=3, **bf16), lost),
        ("norm lost", EnginePart(zero_stage=2, **bf16), [*lost, blind]),
        ("norm lost at 3", EnginePart(zero_stage=3), [*lost, blind]),
        ("rounded", EnginePart(**bf16), [patch.object(zero, "send_exact_weights", lambda engine, exact: None)]),
        ("scaled", EnginePart(), [patch.object(contract, "finish_step", lambda *given: finish(*given) * 1.1)]),
        ("renamed", EnginePart(), [patch.object(zero_state, "_flat_parameters", renamed)]),
        ("moments", EnginePart(zero_stage=3), [patch.object(zero_state, "set_whole_state", only_weights)]),
    ]


def refusal(part: EnginePart, faults: list[Any], world: World) -> str:
    for fault in faults:
        fault.start()
    try:
        contract.check_deepspeed(part, world)
    except UserError as problem:
        return str(problem)
    finally:
        for fault in faults:
            fault.stop()
    return "as it should be"


def main() -> None:
    with joined("contract", 60) as world:
        drawn = torch.get_rng_state()
        for name, part, faults in cases():
            answer = refusal(part, faults, world)
            print(f"{name}|{answer}", flush=True)
        # The run's own random numbers are those of a run without the check.
        assert torch.equal(drawn, torch.get_rng_state())


main()
