"""Compiles the fused kernel ahead of time, without a GPU, and reports registers, spills and shared memory.

    python -m stilts_kernels.compile_check          prints a table; exit status 1 when the gate fails

Gate: no spill on any target, and at most 168 registers a thread on sm_90 for k = 4 and 16 (three warps' worth of
wgmma accumulators still leave room for the next tile's loads). Triton's wheel brings cuobjdump and nvdisasm.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from stilts_kernels.fused import config_for, group_topk_kernel, kernel_constants

TARGETS = (90, 80)
GATED_K = (4, 16)
ALL_K = (4, 16, 64)
MAX_REGISTERS = {90: 168}
DIM = 1024
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTER_ARGUMENTS = 4  # queries, bank, out_keys, out_tiles


@dataclass
class Compiled:
    """What the assembler made of one configuration; spills counts local-memory loads and stores in the code."""

    capability: int
    k: int
    registers: int
    spills: int
    shared_bytes: int
    tensor_instructions: int

    def fails(self) -> str:
        """Why the gate rejects this kernel, or an empty string."""
        limit = MAX_REGISTERS.get(self.capability, 255) if self.k in GATED_K else 255
        if self.spills:
            return f"{self.spills} spill instructions"
        return f"{self.registers} registers, limit {limit}" if self.registers > limit else ""

    def __str__(self) -> str:
        return (f"sm_{self.capability}  k {self.k:3d}  registers {self.registers:3d}  spills {self.spills}  "
                f"shared {self.shared_bytes} B  tensor instructions {self.tensor_instructions}")


def compile_kernel(capability: int, k: int, dim: int = DIM) -> Compiled:
    """Compiles the kernel as it runs on sm_<capability>, for bfloat16 rows of `dim` columns."""
    config = config_for(capability, k)
    constants = kernel_constants(config, dim, k)
    compiled = triton.compile(
        ASTSource(group_topk_kernel, signature(config, constants), constants, attributes(config)),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": config["num_warps"], "num_stages": config["STAGES"]},
    )
    usage, code = disassemble(compiled.asm["cubin"])
    registers = int(re.findall(r"REG:(\d+)", usage)[0])
    return Compiled(capability, k, registers, len(re.findall(r"\b(?:LDL|STL)\b", code)), compiled.metadata.shared,
                    len(re.findall(r"\bHG?MMA\b", code)))


def signature(config: dict[str, int], constants: dict[str, int]) -> dict[str, str]:
    """Argument types: tensor descriptors for TMA, else pointers."""
    tma, depth = config["USE_TMA"], config["BK"]
    sides = {name: f"tensordesc<bf16[{config[rows]},{depth}]>" if tma else "*bf16"
             for name, rows in (("queries", "BM"), ("bank", "BN"))}
    outputs = {"out_keys": "*i32", "out_tiles": "*i32"}
    counts = dict.fromkeys(("query_count", "tile_count", "tiles_per_split"), "i32")
    return {**sides, **outputs, **counts, **dict.fromkeys(constants, "constexpr")}


def attributes(config: dict[str, int]) -> dict[tuple[int], list[list[object]]]:
    """torch allocations are 16-byte aligned; Triton learns that at launch, so say it here."""
    first = 2 if config["USE_TMA"] else 0
    return {(i,): [["tt.divisibility", 16]] for i in range(first, POINTER_ARGUMENTS)}


def disassemble(cubin: bytes) -> tuple[str, str]:
    """(resource usage, machine code) of a compiled kernel as text."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([str(TOOLS / "cuobjdump"), "-res-usage", file.name], [str(TOOLS / "nvdisasm"), "-c", file.name])
        usage, code = (subprocess.run(command, capture_output=True, text=True, check=True).stdout
                       for command in commands)
    return usage, code


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one line per target and k; returns 1 when the gate fails."""
    del argv
    failed = 0
    for capability in TARGETS:
        for k in ALL_K:
            compiled = compile_kernel(capability, k)
            reason = compiled.fails()
            failed |= bool(reason)
            print(compiled, f"  FAILS: {reason}" if reason else "", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
