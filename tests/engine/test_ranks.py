"""Who am I: every way to start ranks gives the right place or a clear error, never `rank 0 of 1` by accident."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import ranks
from mpi import ON_ANY_MACHINE, mpiexec
from stilts_launcher.discover import discover
from stilts_launcher.rank_place import FIRST_PORT, PORTS, RankPlace, free_port

from stilts_ds.engine.world import check_accelerator, check_interfaces
from stilts_ds.errors import UserError

PROGRAM = ranks.PROGRAMS / "join_ranks.py"
TORCHRUN = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "n7",
    "MASTER_PORT": "29501",
    "GROUP_RANK": "1",
    "TORCHELASTIC_RUN_ID": "x",
}
MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "PMIX_NAMESPACE": "prterun-n0-1@1",
}
MPI_OF_ONE = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
# What sbatch puts into the batch script and everything started from it: task 0 of all tasks, but no step.
BATCH = {
    "SLURM_JOB_ID": "17",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_JOB_NODELIST": "n[0-1]",
    "SLURM_JOB_NUM_NODES": "2",
}
STEP = {
    **BATCH,
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_STEP_NODELIST": "n0",
}
TWO_NODES = {
    **STEP,
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "n[0-1]",
    "STILTS_MASTER_ADDR": "n0",
}


def without(environment: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


def place(environment: dict[str, str]) -> RankPlace | None:
    return discover(environment, exchange=lambda text: "host-of-rank-0 20123")


@pytest.mark.parametrize(
    "environment, expected",
    [
        pytest.param({}, None, id="alone"),
        pytest.param({"LOCAL_RANK": "0", "MASTER_PORT": "29500"}, None, id="leftovers that name no rank"),
        pytest.param(TORCHRUN, (3, 1, 4, "n7", "torchrun"), id="torchrun"),
        pytest.param({**TORCHRUN, **BATCH}, (3, 1, 4, "n7", "torchrun"), id="torchrun in sbatch"),
        pytest.param({**TORCHRUN, **STEP}, (3, 1, 4, "n7", "torchrun"), id="torchrun under srun, one agent a node"),
        pytest.param(MPI, (1, 1, 2, "host-of-rank-0", "mpirun"), id="mpirun"),
        pytest.param({**MPI, **BATCH}, (1, 1, 2, "host-of-rank-0", "mpirun"), id="mpirun in sbatch"),
        pytest.param(
            {**MPI, **TORCHRUN, "RANK": "1", "WORLD_SIZE": "2"},
            (1, 1, 2, "n7", "torchrun"),
            id="mpirun and the same place set by hand",
        ),
        pytest.param(MPI_OF_ONE, (0, 0, 1, "host-of-rank-0", "mpirun"), id="mpirun of one"),
        pytest.param(
            {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
            (1, 1, 4, "host-of-rank-0", "mpiexec"),
            id="Intel MPI and MPICH",
        ),
        pytest.param(
            {"PALS_RANKID": "3", "PALS_LOCAL_RANKID": "1", "PMI_SIZE": "4"},
            (3, 1, 4, "host-of-rank-0", "mpiexec"),
            id="Cray PALS",
        ),
        pytest.param(
            {**STEP, "PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 1, 2, "127.0.0.1", "srun"), id="srun that offers PMI, too"
        ),
        pytest.param(STEP, (1, 1, 2, "127.0.0.1", "srun"), id="srun on one node"),
        pytest.param(TWO_NODES, (1, 0, 2, "n0", "srun"), id="srun on two nodes"),
        pytest.param({**BATCH, "SLURM_NTASKS": "1"}, None, id="sbatch of one task"),
        pytest.param(
            {**STEP, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None, id="srun of one task"
        ),
        pytest.param({"SLURM_NTASKS": "8"}, None, id="Slurm's settings without a job"),
    ],
)
def test_a_known_start_gives_its_place(environment: dict[str, str], expected: Any) -> None:
    found = place(environment)
    shown = None if found is None else (found.rank, found.local_rank, found.size, found.address, found.starter)
    assert shown == expected


@pytest.mark.parametrize(
    "environment, message",
    [
        pytest.param(BATCH, "start all of them with `srun", id="sbatch without srun"),
        pytest.param({"RANK": "0"}, "set all five or none", id="RANK alone"),
        pytest.param({"RANK": "0", "WORLD_SIZE": "1"}, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT", id="two of five"),
        pytest.param(without(TORCHRUN, "MASTER_PORT"), "not MASTER_PORT", id="four of five"),
        pytest.param({**TORCHRUN, "RANK": "4"}, "RANK=4 is not below WORLD_SIZE=4", id="rank beyond the size"),
        pytest.param({**TORCHRUN, "RANK": "-1"}, "RANK=-1", id="negative rank"),
        pytest.param({**TORCHRUN, "WORLD_SIZE": "two"}, "WORLD_SIZE=two is not a number", id="size in words"),
        pytest.param({**TORCHRUN, "MASTER_PORT": ""}, "MASTER_PORT= is not a number", id="empty port"),
        pytest.param({**TORCHRUN, **MPI}, "contradict Open MPI's rank 1 of 2", id="torchrun's and MPI's places differ"),
        pytest.param({"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_LOCAL_RANK", id="half of Open MPI"),
        pytest.param({"PMI_RANK": "0", "PMI_SIZE": "2"}, "PMI_RANK names a rank of an MPI start", id="half of PMI"),
        pytest.param({"PALS_RANKID": "0", "PALS_LOCAL_RANKID": "0"}, "none of PMI_SIZE, PALS_SIZE", id="half of PALS"),
        pytest.param(without(STEP, "SLURM_STEP_NUM_TASKS"), "SLURM_STEP_NUM_TASKS", id="half of srun"),
        pytest.param({**BATCH, "SLURM_NTASKS": "two"}, "SLURM_NTASKS=two is not a number", id="tasks in words"),
    ],
)
def test_a_start_that_cannot_be_meant_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as problem:
        place(environment)
    assert message in str(problem.value)


@pytest.mark.parametrize(
    "nodes, first",
    [
        ("n[0-1]", "n0"),
        ("n[007-120,301],m3", "n007"),
        ("login,n[1-2]", "login"),
        ("r[2-3]n[10-12].site", "r2n10.site"),
        ("n7", "n7"),
    ],
)
def test_the_address_is_the_first_of_the_steps_nodes_without_any_command(
    nodes: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks in a container have none of Slurm's commands."""
    monkeypatch.setenv("PATH", "/nonexistent")
    found = place({**without(TWO_NODES, "STILTS_MASTER_ADDR"), "SLURM_STEP_NODELIST": nodes})
    assert found is not None and found.address == first


@pytest.mark.parametrize("nodes", ["", "-n0", "n[", "n[a-b]", "n 0"])
def test_a_node_list_that_is_none_asks_for_the_address(nodes: str) -> None:
    with pytest.raises(UserError, match="set STILTS_MASTER_ADDR"):
        place({**without(TWO_NODES, "STILTS_MASTER_ADDR"), "SLURM_STEP_NODELIST": nodes})


def test_where_ranks_are_on_several_machines_rank_0_offers_no_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that means 127.0.1.1, as Debian writes it into /etc/hosts."""
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    offered: list[str] = []

    def exchange(text: str) -> str:
        offered.append(text)
        return text or "n0 1"

    here = {**MPI, "OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    alone = discover(here, exchange)
    assert alone is not None and alone.address == "127.0.0.1"
    try:
        spread = discover({**here, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, exchange)
    except UserError as problem:  # a machine without any route
        assert "means a loopback address" in str(problem)
    else:
        assert spread is not None and not spread.address.startswith(("127.", "localhost"))


def test_the_variables_are_torchruns_five_and_lead_back_to_the_same_place() -> None:
    found = place(STEP)
    assert found is not None
    assert set(found.variables()) == {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    again = place({**STEP, **found.variables()})
    assert again is not None and again.variables() == found.variables()


def test_a_node_that_the_launcher_names_is_handed_on() -> None:
    """Findings about ranks name the node as the launcher's other commands do."""
    found = place({**STEP, "SLURMD_NODENAME": "n7"})
    assert found is not None and found.variables()["STILTS_NODE"] == "n7"


def port(**changed: str) -> int:
    found = place({**STEP, **changed})
    assert found is not None
    return found.port


def test_a_port_is_below_the_clients_range_and_the_same_on_all_ranks() -> None:
    ports = {port(SLURM_JOB_ID=str(job)) for job in range(500)}
    assert all(FIRST_PORT <= each < FIRST_PORT + PORTS <= 32768 for each in ports) and len(ports) > 480
    assert port(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="1") == port()


def test_jobs_steps_and_restarts_have_ports_of_their_own() -> None:
    changed = [
        port(),
        port(SLURM_JOB_ID="18"),
        port(SLURM_STEP_ID="1"),
        port(SLURM_RESTART_COUNT="1"),
        port(SLURM_RESTART_COUNT="2"),
    ]
    assert len(set(changed)) == len(changed)


def test_under_open_mpi_all_ranks_take_the_address_that_rank_0_offers() -> None:
    offered: list[str] = []

    def exchange(text: str) -> str:
        offered.append(text)
        return offered[0]

    first = discover({**MPI, "OMPI_COMM_WORLD_RANK": "0"}, exchange)
    second = discover({**MPI, "PMIX_NAMESPACE": "other"}, exchange)
    assert first and second and (first.address, first.port) == (second.address, second.port)
    assert FIRST_PORT <= first.port < FIRST_PORT + PORTS and len(set(offered)) == 2


def test_real_mpi_ranks_find_and_join_each_other() -> None:
    command = [mpiexec(), *ON_ANY_MACHINE, "-n", "2", sys.executable, str(PROGRAM), "token"]
    ended = subprocess.run(command, env=ranks.environment(), capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    assert sorted(line for line in ended.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 of 2 by mpirun: sum 3",
        "rank 1 of 2 by mpirun: sum 3",
    ]


def test_torchrun_ranks_find_and_join_each_other() -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(PROGRAM), "token"]
    ended = subprocess.run(
        command,
        env=ranks.environment(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert ended.returncode == 0, ended.stderr
    assert "rank 0 of 2 by torchrun: sum 3" in ended.stdout and "rank 1 of 2 by torchrun: sum 3" in ended.stdout


def test_ranks_of_two_runs_that_meet_at_one_port_leave_with_an_error() -> None:
    """Rank 0 of one run and rank 1 of another, as when both start at once and find each other first."""
    shared = str(free_port())
    meeting = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), token],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ranks.environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=shared
            ),
        )
        for rank, token in ((0, "run A"), (1, "run B"))
    ]
    outputs = [process.communicate(timeout=400) for process in meeting]  # they would wait for two hours
    assert [process.returncode for process in meeting] == [2, 2], outputs
    for shown, problem in outputs:
        assert "ranks of different runs met" in problem and "sum" not in shown


# --- variables left in the environment -------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "message"), [
    ("cuda", "torch sees no GPU here; unset it to train on the CPU"),
    ("xpu", "DS_ACCELERATOR=xpu: training runs on `cuda` and `cpu` only"),
])  # fmt: skip
def test_an_accelerator_that_is_not_here_is_told_by_its_variable(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("DS_ACCELERATOR", value)
    with pytest.raises(UserError, match=message):
        check_accelerator()
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    check_accelerator()


def test_a_network_device_that_is_not_here_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo,ib9")
    with pytest.raises(UserError, match=r"GLOO_SOCKET_IFNAME=lo,ib9: .* has no network device 'ib9'; unset .* lo"):
        check_interfaces()
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    check_interfaces()
