"""A real Slurm of two nodes on this host, for the tests that have it; the daemons end with the block."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.runtime.machine import free_port

INSTALL = "apt-get install slurmd slurmctld slurm-client munge"
NODES = ("n0", "n1")
_DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
_CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
KillWait=90
ReturnToService=0
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Return why there can be no cluster here; empty where there can."""
    absent = [name for name in _DAEMONS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not found: {INSTALL}"
    return "" if os.geteuid() == 0 else "slurmd starts the jobs of others as root only"


class Cluster:
    """Two nodes, and Slurm's own commands for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str, **extra: str) -> str:
        """Run a command and return its output; it must succeed."""
        env = {**self.environment, **extra}
        done = subprocess.run(command, env=env, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Return the job's state, such as RUNNING."""
        words = self.run("scontrol", "show", "job", job, "--oneliner").split()
        return next(word.partition("=")[2] for word in words if word.startswith("JobState="))

    def account(self) -> str:
        """Return the ends of all logs."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Start Munge and Slurm's daemons in a folder, and end them after the block."""
    (folder / "state").mkdir(parents=True)
    host = os.uname().nodename.partition(".")[0]
    line = f"NodeName={{}} NodeHostname={host} NodeAddr=127.0.0.1 Port={{}} CPUs=1 State=UNKNOWN"
    nodes = "\n".join(line.format(name, free_port()) for name in NODES)
    config = _CONFIG.format(host=host, port=free_port(), folder=folder, nodes=nodes)
    (folder / "slurm.conf").write_text(config)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    cluster = Cluster(folder)
    files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid", "seed-file": "munge.seed"}
    munge = [f"--{name}={folder / file}" for name, file in files.items()]
    commands = [["munged", "--foreground", "--force", f"--log-file={folder / 'munge.log'}", *munge]]
    commands += [["slurmctld", "-D"], *(["slurmd", "-D", "-N", name] for name in NODES)]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            with (folder / f"{command[0]}-output.log").open("ab") as log:
                daemons.append(subprocess.Popen(command, env=cluster.environment, stdout=log, stderr=log))
            time.sleep(0.5)
        _wait_for_nodes(cluster)
        yield cluster
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _wait_for_nodes(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while cluster.run("sinfo", "--noheader", "--format=%T", "--Node").split() != ["idle", "idle"]:
        assert time.monotonic() < deadline, cluster.account()
        time.sleep(0.2)
