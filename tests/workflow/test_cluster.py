"""The workflow on a real Slurm, through both cluster profiles: killed jobs, and the same results.

Needs Slurm's daemons, root, and the script ../shared/slurm-cluster, which sets up a cluster of one
node. Everything is bounded in time, and the cluster is taken down whatever happens.
"""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from helpers.places import ROOT
from helpers.projects import AUDIO, configure, make_project, planned, run

SCRIPT = ROOT.parent / "shared/slurm-cluster"
TARGET = "results/calibration/dataset.txt"
SAME = ("model.json", "index", "features", "traces", "calibration")
PORTS = ("CTLD_PORT", "D_PORT", "DBD_PORT", "SQL_PORT")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A running cluster; its value is the environment that Slurm's commands need."""
    if not SCRIPT.exists():
        pytest.skip("needs ../shared/slurm-cluster")
    if os.getuid() or not shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
        pytest.skip("needs root, and Slurm's daemons: ../shared/slurm-cluster install")
    folder = tmp_path_factory.mktemp("slurm")
    # MariaDB's own user must get to its socket.
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    with ExitStack() as stack:
        ports = {}
        for name in PORTS:
            free = stack.enter_context(socket.socket())
            free.bind(("127.0.0.1", 0))
            ports[name] = str(free.getsockname()[1])
    env = os.environ | ports
    env |= {"SLURM_PREFIX": str(folder), "SLURM_CONF": str(folder / "etc/slurm.conf")}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}:/usr/sbin"}
    # Snakemake's Slurm plugin needs it; some containers have none.
    env["USER"] = pwd.getpwuid(os.getuid()).pw_name

    def manage(command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["timeout", "-k", "10", "240", SCRIPT, command],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=(folder / f"{command}.out").open("w"),
            stderr=subprocess.STDOUT,
        )

    try:
        for command in ("up", "check"):
            if manage(command).returncode:
                pytest.skip(f"no Slurm here: {(folder / f'{command}.out').read_text()[:2000]}")
        yield env
    finally:
        manage("down")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A project whose calibration set is made without a cluster, and one that is indexed only."""
    folder = tmp_path_factory.mktemp("local")
    indexed = make_project(folder / "indexed")
    indexes = [f"results/index/calibration/{shard}.tsv" for shard in range(3)]
    run(indexed, "results/model.json", *indexes)
    finished = Path(shutil.copytree(indexed, folder / "finished", symlinks=True))
    run(finished, TARGET)
    return finished, indexed


class Run:
    """Snakemake with a cluster profile, in the background."""

    def __init__(self, project: Path, env: dict, profile: str, *options: str, seconds: int = 270):
        self.project, self.env = project, env
        self._deadline = time.monotonic() + seconds
        self._file = (project / "console.txt").open("w+")
        snakemake = (sys.executable, "-m", "snakemake", TARGET, "--profile", f"profiles/{profile}")
        self.process = subprocess.Popen(
            [
                # SIGTERM would leave the jobs on the cluster.
                *("timeout", "--foreground", "-s", "INT", "-k", "30", str(seconds)),
                *snakemake,
                *options,
                *("--configfile", "my.yaml"),
            ],
            cwd=project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)

    @property
    def console(self) -> str:
        return (self.project / "console.txt").read_text()

    def wait(self) -> int:
        return self.process.wait(max(1, self._deadline + 60 - time.monotonic()))

    def submitted(self, jobs: int) -> None:
        """Wait until so many group jobs are on the cluster: none is on its way there any more."""
        while self.console.count("Submitted group job") < jobs:
            assert time.monotonic() < self._deadline and self.process.poll() is None, self.console
            time.sleep(0.05)

    def working(self, *spared: str) -> "Job":
        """Wait for a trace job in the middle of its work, which belongs to no spared Slurm job."""
        while time.monotonic() < self._deadline and self.process.poll() is None:
            for job in jobs(self.project, "traces.py"):
                if job.slurm not in spared:
                    return job
            time.sleep(0.02)
        raise AssertionError(f"no trace job was seen\n{self.console}")


@dataclass(frozen=True)
class Job:
    """A job's script, the child process that does its work, and the Slurm job around both."""

    script: int
    child: int
    slurm: str


def jobs(project: Path, script: str) -> list[Job]:
    """The jobs of a project that are at work on a node, by the name of their script."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if script not in (folder / "cmdline").read_text():
                continue
            if (folder / "cwd").resolve() != project.resolve():
                continue
            environment = (folder / "environ").read_text().split("\0")
            parent = re.search(r"^PPid:\t(\d+)$", (folder / "status").read_text(), re.MULTILINE)
        except OSError:  # it has just ended
            continue
        slurm = [v.split("=")[1] for v in environment if v.startswith("SLURM_JOB_ID=")]
        found[int(folder.name)] = (int(parent[1]), *slurm)
    return [Job(up, child, id) for child, (up, id) in found.items() if up in found]


def gone(process: int, seconds: float = 20) -> bool:
    """Whether a process ends within some time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def ask(env: dict, *command: str) -> str:
    """What one of Slurm's commands prints."""
    return subprocess.run(
        command, env=env, check=True, capture_output=True, text=True, timeout=30
    ).stdout


def differences(one: Path, other: Path) -> list[str]:
    """The names of the results up to the calibration set that two projects do not share exactly."""

    def contents(project: Path) -> dict[str, bytes]:
        roots = [project / "results" / name for name in SAME]
        paths = [p for root in roots for p in (root, *root.rglob("*")) if p.is_file()]
        # Snakemake leaves a time stamp in a folder that a rule makes.
        paths = [path for path in paths if path.name != ".snakemake_timestamp"]
        return {str(path.relative_to(project)): path.read_bytes() for path in paths}

    ours, theirs = contents(one), contents(other)
    assert len(ours) > 50
    names = sorted(ours.keys() | theirs.keys())
    return [name for name in names if ours.get(name) != theirs.get(name)]


@pytest.mark.slow
def test_slurm_gives_the_same_results_though_jobs_are_killed(cluster, local, tmp_path):
    finished, indexed = local
    project = Path(shutil.copytree(indexed, tmp_path / "project", symlinks=True))
    with Run(project, cluster, "slurm") as snakemake:
        killed = snakemake.working()
        os.kill(killed.script, signal.SIGKILL)
        assert gone(killed.child), "the work goes on after its job is dead"
        cancelled = snakemake.working(killed.slurm)
        os.kill(cancelled.child, signal.SIGSTOP)  # or it might end before it is cancelled
        ask(cluster, "scancel", cancelled.slurm)
        assert gone(cancelled.script) and gone(cancelled.child)
        assert snakemake.wait() == 0, snakemake.console
        console = snakemake.console
    assert differences(finished, project) == []
    # The jobs of this run: three shards, two of them again with twice as much, the calibration set.
    ids = re.findall(r"submitted with SLURM jobid (\d+)", console)
    assert len(ids) == 6, console
    fields = "JobID,State,ReqMem,TimelimitRaw"
    told = ask(cluster, "sacct", "-X", "-n", "-P", "-j", ",".join(ids), "-o", fields)
    states = {line.split("|")[0]: line.split("|")[1:] for line in told.splitlines()}
    first, again = ["2000M", "90"], ["4000M", "180"]
    assert states[killed.slurm] == ["FAILED", *first]
    assert states[cancelled.slurm][0].startswith("CANCELLED")
    assert states[cancelled.slurm][1:] == first
    assert sorted(state[1:] for state in states.values() if state[0] == "COMPLETED") == [
        ["1000M", "120"],
        first,
        again,
        again,
    ]
    # The folder can be taken elsewhere, and nothing is made again there.
    moved = Path(shutil.copytree(project, tmp_path / "elsewhere", symlinks=True))
    assert planned(moved, TARGET) == {}


@pytest.mark.slow
def test_submit_command_gives_the_same_results_though_run_and_job_are_killed(
    cluster, local, tmp_path
):
    finished, _ = local
    project = make_project(tmp_path / "project")
    often = ("--seconds-between-status-checks", "2")
    with Run(project, cluster, "generic", *often) as snakemake:
        snakemake.submitted(3)  # one for each shard
        snakemake.working()
        snakemake.process.send_signal(signal.SIGINT)
        assert snakemake.wait() != 0
    for _ in range(600):
        left = ask(cluster, "squeue", "-h", "-o", "%i %T")
        if not left:
            break
        time.sleep(0.1)
    assert not left, "an interrupted run leaves jobs on the cluster"
    with Run(project, cluster, "generic", *often) as snakemake:
        job = snakemake.working()
        # As the kernel does where memory runs out.
        os.kill(job.child, signal.SIGKILL)
        assert snakemake.wait() == 0, snakemake.console
        assert snakemake.console.count("Trying to restart job") == 1
    assert differences(finished, project) == []


@pytest.mark.slow
def test_a_plain_error_is_not_tried_again(cluster, tmp_path):
    project = make_project(tmp_path / "project")
    configure(project, audio=AUDIO | {"on_bad_file": "stop"})
    (project / "audio/calibration/c0.wav").write_text("no speech")
    often = ("--seconds-between-status-checks", "2")
    with Run(project, cluster, "generic", *often) as snakemake:
        assert snakemake.wait() == 1
        console = snakemake.console
    assert yaml.safe_load((project / "profiles/generic/config.yaml").read_text())["retries"] == 2
    assert "Trying to restart" not in console and "c0.wav" in console
    assert console.count("failed: Indexing calibration audio") == 1


def test_every_rule_asks_for_memory_and_time_and_profiles_name_rules_that_there_are():
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    parts = re.split(r"^(?:use )?rule (\w+)", text, flags=re.MULTILINE)[1:]
    blocks = dict(zip(parts[::2], parts[1::2], strict=True))
    for rule, block in blocks.items():
        if not block.startswith(" "):  # one that takes after another has that one's
            assert "mem_mb=growing(" in block and "runtime=growing(" in block, rule
    profiles = [
        yaml.safe_load((ROOT / f"profiles/{name}/config.yaml").read_text())
        for name in ("slurm", "generic")
    ]
    assert profiles[0]["groups"] == profiles[1]["groups"]
    assert profiles[0]["groups"].keys() <= blocks.keys()
