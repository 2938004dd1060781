"""Compiles the Triton kernels ahead of time, without a GPU, and reports registers, spills and shared memory.

    python -m stilts_bench.compile_check               defaults: one line per target, direction and k
    python -m stilts_bench.compile_check --candidates  every configuration the tuner may choose

Exit status 1 when the gate fails: no spill on any target, products by the target's own tensor instructions, and at most
168 registers a thread on sm_90 for k = 4 and 16 in a default (three warps' worth of wgmma accumulators still leave room
for the next tile's loads). Triton's wheel brings cuobjdump and nvdisasm.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from stilts_kernels.dropout.attention import tile_of
from stilts_kernels.dropout.attention_kernel import forward_kernel, key_gradient_kernel, query_gradient_kernel
from stilts_kernels.dropout.kernel import BLOCK_ELEMENTS, BLOCK_PLANES, dropout_kernel
from stilts_kernels.topk.configs import candidates
from stilts_kernels.topk.kernel import Config, group_topk_kernel, kept_groups, kernel_constants
from stilts_kernels.topk.pair_kernel import PAIR_BLOCK, PAIR_DEPTH, pair_score_kernel
from stilts_kernels.topk.panel_kernel import PANEL_DEPTH, PANEL_ROWS, panel_kernel
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Blackwell, Hopper and Ampere data-centre GPUs; searches also for Blackwell's workstations, where attention spills.
TARGETS = (100, 90, 80)
SEARCH_TARGETS = (120, *TARGETS)
GATED_K = (4, 16)
ALL_K = (4, 16, 64)
MAX_REGISTERS = {90: 168}
# From NVIDIA's table of compute capabilities.
SHARED_LIMIT = {120: 99 << 10, 100: 227 << 10, 90: 227 << 10, 80: 163 << 10}  # bytes a program may have
# What a target multiplies tiles with: tcgen05, wgmma, and the instruction of single warps.
TENSOR_INSTRUCTIONS = {120: r"HMMA", 100: r"UTC\w*MMA", 90: r"HGMMA", 80: r"HMMA"}
DIM = 1024
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
ATTENTION = (forward_kernel, query_gradient_kernel, key_gradient_kernel)
POINTER = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float16: "*fp16"}
MODEL_DTYPES = (torch.bfloat16, torch.float32)
# All hold int32: packed keys and numbers of tiles.
POINTERS = ("floors", "out_keys", "out_tiles", "out_best", "out_second")


@dataclass
class CompiledKernel:
    """What the assembler made of one kernel; spills counts local-memory loads and stores in the code."""

    name: str
    capability: int
    limit: int  # registers
    registers: int
    spills: int
    shared_bytes: int
    tensor_instructions: int
    multiplies: bool = True  # whether it is a matrix product, which must use tensor instructions
    specialized: bool = False  # whether warps of their own load and multiply, as was asked for
    partitions: int = 0  # groups of such warps

    def fails(self) -> str:
        """Why the gate rejects this kernel, or an empty string."""
        # Local memory is the device's: a spill in the inner loop would be read and written with every tile.
        if self.spills:
            return f"{self.spills} spill instructions"
        if self.shared_bytes > SHARED_LIMIT[self.capability]:
            return f"{self.shared_bytes} bytes of shared memory, limit {SHARED_LIMIT[self.capability]}"
        if self.multiplies and not self.tensor_instructions:
            return f"no {TENSOR_INSTRUCTIONS[self.capability]}: products are made number by number"
        # Where it cannot, Triton leaves them out and says nothing: that would be another candidate once more.
        if self.specialized and not self.partitions:
            return "no warps of their own for loads and products"
        return f"{self.registers} registers, limit {self.limit}" if self.registers > self.limit else ""

    def __str__(self) -> str:
        return (
            f"sm_{self.capability}  {self.name:<44}  registers {self.registers:3d}  spills {self.spills}  "
            f"shared {self.shared_bytes:6d} B  tensor instructions {self.tensor_instructions}"
        )


def compile_search(
    capability: int, k: int, two_way: bool = False, config: Config | None = None, dim: int = DIM
) -> CompiledKernel:
    """Compiles the search kernel as it runs on sm_<capability>, for bfloat16 rows of `dim` columns."""
    default = candidates(capability, kept_groups(k), two_way)[0]
    config = config or default
    # As float32 rows are searched; rows that are multiplied as they are have no shifts, and need no more registers.
    constants = kernel_constants(config, dim, kept_groups(k), shifted=True, two_way=two_way)
    sizes = " ".join(str(config[name]) for name in ("BM", "BN", "BK", "STAGES", "num_warps", "ROW_GROUPS"))
    name = f"{'two-way' if two_way else 'one-way'}  k {k:2d}  D {dim}  {sizes}"
    # 255 is the most that an instruction can name; a candidate may ask for more than a default.
    limit = MAX_REGISTERS.get(capability, 255) if k in GATED_K and config == default else 255
    options = {"num_warps": config["num_warps"], "num_stages": config["STAGES"], "maxnreg": config["maxnreg"]}
    compiled = assemble(group_topk_kernel, signature(config, constants), constants, capability, name, limit, options)
    return replace(compiled, specialized=bool(config["SPECIALIZED"]))


def compile_pairs(capability: int, unit: bool) -> CompiledKernel:
    """Compiles the exact scorer for bfloat16 rows."""
    constants = {"DIM": DIM, "UNIT": unit, "BP": PAIR_BLOCK, "BD": PAIR_DEPTH}
    types = {
        "queries": "*bf16",
        "bank": "*bf16",
        "query_norms": "*fp32",
        "bank_norms": "*fp32",
        "query": "*i64",
        "row": "*i64",
        "out": "*fp64",
        "pair_count": "i32",
        # Strides of rows: a number of rows times it passes 2^31.
        "query_stride": "i64",
        "query_step": "i32",
        "bank_stride": "i64",
        "bank_step": "i32",
        **dict.fromkeys(constants, "constexpr"),
    }
    name = f"pair scores{', unit rows' if unit else ''}"
    return assemble(pair_score_kernel, types, constants, capability, name, 255, {}, multiplies=False)


def compile_panel(capability: int, unit: bool, stored: torch.dtype = torch.float16) -> CompiledKernel:
    """Compiles the maker of panels, from float32 rows."""
    constants: dict[str, float] = {"DIM": DIM, "COLUMNS": DIM, "UNIT": unit, "BR": PANEL_ROWS, "BD": PANEL_DEPTH}
    constants |= {"CENTRED": True, "SHIFTED": True, "STORED": True, "LARGEST": torch.finfo(stored).max}
    pointers = ("rows", "lengths", "centre", "opposite", "out", "out_norm", "out_error", "out_size", "out_shift")
    types = {
        **dict.fromkeys(pointers, "*fp32"),
        **{"out": POINTER[stored], "count": "i32", "row_stride": "i64", "row_step": "i32", "scale": "fp32"},
        **dict.fromkeys(constants, "constexpr"),
    }
    name = f"panel  {stored}{', unit rows' if unit else ''}"
    return assemble(panel_kernel, types, constants, capability, name, 255, {}, multiplies=False)


def compile_dropout(capability: int, dtype: torch.dtype) -> CompiledKernel:
    """Compiles dropout of hidden states."""
    pointer = POINTER[dtype]
    constants = {"BP": BLOCK_PLANES, "BE": BLOCK_ELEMENTS}
    types = {
        **{"x": pointer, "keys": "*i64", "words": "*i32", "out": pointer},
        **dict.fromkeys(("planes", "elements", "width", "site", "least"), "i32"),
        "scale": "fp32",
        **dict.fromkeys(constants, "constexpr"),
    }
    return assemble(dropout_kernel, types, constants, capability, f"dropout  {dtype}", 255, {}, multiplies=False)


def compile_attention(capability: int, kernel: Any, dtype: torch.dtype, size: int = 64) -> CompiledKernel:
    """Compiles a kernel of attention with dropout, for heads of `size`."""
    constants = tile_of(dtype, size)
    # A launch option to Triton, though the tile's table has it beside the constants.
    options = {"num_warps": constants.pop("num_warps")}
    # Every argument that is no tensor of the model's own dtype.
    others = {"logs": "*fp32", "deltas": "*fp32", "offsets": "*i64", "keys": "*i64", "words": "*i32"}
    others |= dict.fromkeys(("heads", "size", "stride", "site", "least"), "i32")
    others |= dict.fromkeys(("scale", "factor"), "fp32") | dict.fromkeys(constants, "constexpr")
    types = {name: others.get(name, POINTER[dtype]) for name in kernel.arg_names}
    name = f"attention with dropout  {kernel.fn.__name__}  {dtype}"
    return assemble(kernel, types, constants, capability, name, 255, options)


def assemble(
    kernel: Any,
    types: dict[str, str],
    constants: Mapping[str, float],
    capability: int,
    name: str,
    limit: int,
    options: dict[str, int],
    multiplies: bool = True,
) -> CompiledKernel:
    """Compiles one kernel to machine code and counts; torch allocations are 16-byte aligned, as Triton is told."""
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types.values()) if kind.startswith("*")}
    compiled = triton.compile(
        ASTSource(kernel, types, constants, aligned), target=GPUTarget("cuda", capability, 32), options=options
    )
    usage, code = disassemble(compiled.asm["cubin"])
    registers = int(re.findall(r"REG:(\d+)", usage)[0])
    return CompiledKernel(
        name,
        capability,
        limit,
        registers,
        # Local loads and stores: where the assembler puts what does not fit into registers.
        len(re.findall(r"\b(?:LDL|STL)\b", code)),
        compiled.metadata.shared,
        len(re.findall(rf"\b{TENSOR_INSTRUCTIONS[capability]}\b", code)),
        multiplies,
        partitions=len(re.findall(r"\bpartition\d+\(", compiled.asm["ttgir"])),
    )


def signature(config: Config, constants: dict[str, int]) -> dict[str, str]:
    """Argument types: tensor descriptors for TMA, else pointers."""
    sides = {"queries": "*bf16", "bank": "*bf16"}
    if config["USE_TMA"]:
        sides = {
            "queries": f"tensordesc<bf16[{config['BM']},{config['BK']}]>",
            "bank": f"tensordesc<bf16[{config['BN']},{config['BK']}]>",
        }
    shifts = dict.fromkeys(("query_shifts", "bank_shifts"), "*fp32")
    counts = dict.fromkeys(("query_count", "bank_count", "tiles_per_split"), "i32")
    return {**sides, **shifts, **dict.fromkeys(POINTERS, "*i32"), **counts, **dict.fromkeys(constants, "constexpr")}


def disassemble(cubin: bytes) -> tuple[str, str]:
    """(resource usage, machine code) of a compiled kernel as text."""
    # Both tools read only files.
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        commands = ([str(TOOLS / "cuobjdump"), "-res-usage", file.name], [str(TOOLS / "nvdisasm"), "-c", file.name])
        usage, code = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands
        )
    return usage, code


def kernels(every_candidate: bool) -> Iterator[CompiledKernel]:
    """Everything a search may launch, compiled one by one."""
    for capability in SEARCH_TARGETS:
        for two_way in (False, True):
            for k in ALL_K:
                known = candidates(capability, kept_groups(k), two_way)
                for config in known if every_candidate else known[:1]:
                    yield compile_search(capability, k, two_way, config)
        for unit in (False, True):
            yield compile_pairs(capability, unit)
            yield compile_panel(capability, unit)
        if capability not in TARGETS:
            continue
        for dtype in MODEL_DTYPES:
            yield compile_dropout(capability, dtype)
            for kernel in ATTENTION:
                yield compile_attention(capability, kernel, dtype)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints one line per kernel; returns 1 when the gate fails."""
    arguments = sys.argv[1:] if argv is None else argv
    if list(arguments) not in ([], ["--candidates"]):
        print("usage: python -m stilts_bench.compile_check [--candidates]", file=sys.stderr)
        return 2
    print("kernels; of a search: direction, k, D, then BM BN BK stages warps row-groups")
    failed = 0
    for compiled in kernels(bool(arguments)):
        reason = compiled.fails()
        # Goes on, so that one run names every kernel that fails.
        failed |= bool(reason)
        print(compiled, f"  FAILS: {reason}" if reason else "", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
