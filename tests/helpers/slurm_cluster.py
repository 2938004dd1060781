"""A real Slurm cluster on this machine: a controller and two node daemons on loopback, as root, from Debian's packages.

There is no accounting (as on many small clusters). Only daemons that were started here are stopped.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
NODES = ("n0", "n1")


def why_not() -> str | None:
    """Why no cluster can be started here, or None."""
    missing = [p for p in PROGRAMS if _program(p) is None]
    if missing:
        return f"{missing[0]} is not installed (Debian: slurm-wlm and munge)"
    return None if os.geteuid() == 0 else "the daemons are started as root"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """Daemons in `folder`; `environment` makes Slurm's commands speak to them. Each node has `gpus` make-believe GPUs,
    null devices that Slurm hands out as it does real ones, telling each rank which are its own."""

    def __init__(
        self, folder: Path, cpus: int = 4, kill_wait: int = 10, down_after: int = 20, more: str = "", gpus: int = 0
    ) -> None:
        self.folder = folder
        self.conf = folder / "slurm.conf"
        host = socket.gethostname()
        port = 16800 + os.getpid() % 500 * 2
        node_has = f"CPUs={cpus} RealMemory=8000" + (f" Gres=gpu:{gpus}" if gpus else "")
        if gpus:
            more += "GresTypes=gpu\n"
            (folder / "gres.conf").write_text(
                "".join(f"NodeName={node} Name=gpu File={folder}/{node}-gpu[0-{gpus - 1}]\n" for node in NODES)
            )
            for node in NODES:
                for number in range(gpus):
                    os.mknod(folder / f"{node}-gpu{number}", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        self.conf.write_text(
            f"""ClusterName=stilts
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait={kill_wait}
SlurmdTimeout={down_after}
NodeName={NODES[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1000} {node_has} State=UNKNOWN
NodeName={NODES[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 1001} {node_has} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
{more}"""
        )
        (folder / "state").mkdir(exist_ok=True)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "OMPI_", "PMIX_"))},
            "SLURM_CONF": str(self.conf),
            "STILTS_MASTER_ADDR": "127.0.0.1",  # both nodes are this machine, and their names do not resolve
            "GLOO_SOCKET_IFNAME": "lo",
        }

    def start(self) -> None:
        _ensure_munge()
        self._daemon("slurmctld", "-D", "-f", str(self.conf))
        for node in NODES:
            self.start_node(node)
        deadline = time.monotonic() + 60
        while self.run("sinfo", "-h", "-o", "%T %D").split() != ["idle", "2"]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"nodes are not idle: {self.run('sinfo', '-N', '-l')}")
            time.sleep(0.3)

    def start_node(self, node: str) -> None:
        (self.folder / f"spool.{node}").mkdir(exist_ok=True)
        self._daemon("slurmd", "-D", "-N", node, "-f", str(self.conf), name=node)

    def kill_node(self, node: str) -> None:
        """As if the machine had lost power: its daemon, its step daemons and their tasks are gone."""
        self.children.pop(node).kill()
        for pid in _processes_of(node, self.conf):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _daemon(self, program: str, *arguments: str, name: str = "") -> None:
        path = _program(program)
        assert path is not None
        with open(self.folder / f"{name or program}.out", "ab") as log:
            self.children[name or program] = subprocess.Popen(
                [path, *arguments], stdout=log, stderr=log, env=self.environment, start_new_session=True
            )

    def run(self, *command: str, check: bool = False) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=400)
        if check and done.returncode:
            raise RuntimeError(f"{command}: {done.stderr}")
        return done.stdout.strip()

    def stop(self) -> None:
        self.run("scancel", "--me")
        time.sleep(0.5)
        for child in self.children.values():
            child.terminate()
        for child in self.children.values():
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()


def _ensure_munge() -> None:
    """Munge's daemon, started as its own user unless one answers already. It is left running: it serves others too."""
    if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
        return
    account = pwd.getpwnam("munge")
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        os.chown(folder, account.pw_uid, account.pw_gid)
    program = _program("munged")
    assert program is not None
    subprocess.run([program], check=True, user=account.pw_uid, group=account.pw_gid, extra_groups=[])


def _processes_of(node: str, conf: Path) -> list[int]:
    """Tasks of one cluster's node, which know its name, and the step daemons right above them."""
    listing = subprocess.run(["ps", "-eww", "-o", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()
    table = {int(p): (int(pp), args) for p, pp, args in (line.split(None, 2) for line in listing[1:])}
    tasks = {pid for pid in table if _is_of(pid, node, conf)}
    parents = {table[pid][0] for pid in tasks}
    return sorted(tasks | {pid for pid in parents if "slurmstepd" in table.get(pid, (0, ""))[1]})


def _is_of(pid: int, node: str, conf: Path) -> bool:
    """Whether a process is a task of this node. Clusters of other tests have nodes of the same names: the
    configuration's path tells them apart."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={conf}".encode()} <= set(environment)


@contextmanager
def running(folder: Path, more: str = "", gpus: int = 0) -> Iterator[Cluster]:
    """A cluster that runs; `more` lines of its slurm.conf, and make-believe `gpus` of each node."""
    cluster = Cluster(folder, more=more, gpus=gpus)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
