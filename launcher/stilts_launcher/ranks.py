"""Who am I? Rank discovery for torchrun, Open MPI, Slurm and a process of its own.

All five of torchrun's variables are set in the end, so that nothing downstream guesses again. Order: torchrun, Open
MPI, Slurm (only inside a step: a batch script itself also sees SLURM_PROCID=0), alone. Contradictions are errors.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from stilts_ds.errors import UserError

FIRST_PORT, PORTS = 20000, 12000  # below the range that kernels hand out to clients (32768-60999)


@dataclass(frozen=True)
class Ranks:
    """This process's place and where rank 0 listens."""

    rank: int
    local_rank: int
    size: int
    address: str
    port: int
    launcher: str

    def variables(self) -> dict[str, str]:
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def discover(environment: Mapping[str, str], exchange: Callable[[str], str] | None = None) -> Ranks | None:
    """The place that the launcher's variables describe; None for a process that was started alone.

    `exchange(text)` returns rank 0's text on every rank (used under Open MPI, which names no address). Raises
    UserError for variables that contradict each other or a start that cannot be meant.
    """
    place = _described(environment, exchange)
    if place is not None:
        _check(place)
    return place


def _check(place: Ranks) -> None:
    """Refuse numbers that no launcher gives, before ranks wait for each other in vain."""
    remedy = f"start all ranks with one {place.launcher}, or unset its variables"
    if not 0 <= place.rank < place.size or not 0 <= place.local_rank < place.size:
        raise UserError(
            f"{place.launcher} says rank {place.rank}, local rank {place.local_rank} of {place.size} "
            f"(RANK, LOCAL_RANK, WORLD_SIZE or theirs), which cannot be; {remedy}"
        )
    if not 0 < place.port < 65536:
        raise UserError(f"MASTER_PORT={place.port} is no port; {remedy}")
    if not place.address.isprintable() or not place.address or " " in place.address:
        raise UserError(f"MASTER_ADDR={place.address!r} is no address; {remedy} (or set STILTS_MASTER_ADDR)")


def _described(environment: Mapping[str, str], exchange: Callable[[str], str] | None) -> Ranks | None:
    torchrun = _torchrun(environment)
    mpi = _open_mpi(environment)
    if torchrun and mpi and (torchrun.rank, torchrun.size) != mpi[:1] + mpi[2:]:
        raise UserError(
            f"RANK={torchrun.rank}/WORLD_SIZE={torchrun.size} contradict Open MPI's rank {mpi[0]} of {mpi[2]}; "
            "unset RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or do not use mpirun"
        )
    if torchrun:
        return torchrun
    if mpi:
        address, port = (exchange or _mpi_exchange)(f"{_hostname()} {_port(environment)}").split()
        return Ranks(*mpi, address=address, port=int(port), launcher="mpirun")
    return _slurm(environment)


def _torchrun(environment: Mapping[str, str]) -> Ranks | None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    found = [name for name in names if name in environment]
    if not {"RANK", "WORLD_SIZE"} & set(found):
        return None
    if len(found) < len(names):
        missing = sorted(set(names) - set(found))
        raise UserError(f"{', '.join(sorted(found))} are set, but not {', '.join(missing)}; set all five or none")
    rank, local, size = (_number(environment, name) for name in names[:3])
    if not 0 <= rank < size:
        raise UserError(f"RANK={rank} is not below WORLD_SIZE={size}; start all ranks with torchrun, or unset both")
    return Ranks(rank, local, size, environment["MASTER_ADDR"], _number(environment, "MASTER_PORT"), "torchrun")


def _open_mpi(environment: Mapping[str, str]) -> tuple[int, int, int] | None:
    if "OMPI_COMM_WORLD_RANK" not in environment:
        return None
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE")
    rank, local, size = (_number(environment, name) for name in names)
    return rank, local, size


def _slurm(environment: Mapping[str, str]) -> Ranks | None:
    tasks = _number(environment, "SLURM_NTASKS") if "SLURM_NTASKS" in environment else 1
    if "SLURM_STEP_ID" not in environment:
        if tasks > 1 and "SLURM_JOB_ID" in environment:
            raise UserError(
                f"this is one process in a Slurm job of {tasks} tasks; start all of them with `srun stilts ...`"
            )
        return None
    size = _number(environment, "SLURM_STEP_NUM_TASKS")
    if size == 1 and tasks == 1:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    alone = environment.get("SLURM_STEP_NUM_NODES", "1") == "1"
    address = environment.get("STILTS_MASTER_ADDR") or ("127.0.0.1" if alone else _first_host(nodes))
    return Ranks(
        _number(environment, "SLURM_PROCID"),
        _number(environment, "SLURM_LOCALID"),
        size,
        address,
        _port(environment),
        "srun",
    )


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "(not set)")
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UserError(
            f"{name}={text[:80]} is not a number; start the ranks with torchrun, mpirun or srun, or unset its variables"
        )
    return int(text)


def _first_host(nodes: str) -> str:
    try:
        if nodes.startswith("-") or not nodes.isprintable():
            raise OSError("no node list")
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"scontrol cannot expand the node list {nodes!r}; set STILTS_MASTER_ADDR yourself") from error
    return shown.stdout.split("\n")[0]


def _port(environment: Mapping[str, str]) -> int:
    """A port of this job's own: the same on its ranks, another for the next start."""
    parts = [
        environment.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "PMIX_NAMESPACE")
    ]
    return FIRST_PORT + int(hashlib.sha256("/".join(parts).encode()).hexdigest(), 16) % PORTS


def _hostname() -> str:
    import socket

    name = socket.gethostname()
    try:
        socket.gethostbyname(name)
    except OSError:
        return "127.0.0.1"
    return name


def _mpi_exchange(text: str) -> str:
    from mpi4py import MPI

    found = str(MPI.COMM_WORLD.bcast(text, root=0))
    # MPI has done its work. Were it left open, a rank that fails later would wait in its exit handler for the others.
    MPI.Finalize()
    return found
