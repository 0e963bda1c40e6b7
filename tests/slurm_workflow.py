"""A workflow whose jobs go to the cluster of slurm_cluster.py, by profiles/slurm-a100."""

import subprocess
import sys
from pathlib import Path

from tests.slurm_cluster import Cluster
from tests.workflow import ROOT

PROFILE = ROOT / "profiles/slurm-a100"
# A real cluster is asked less often, has slower disks and more cores; all else is the profile's.
BRISK = "--slurm-init-seconds-before-status-checks 2 --latency-wait 10 --jobs 4 --local-cores 1".split()

HEAD = """
from workflow_scripts.plan.orphans import note_head

onstart:
    note_head(workflow)
"""


class Workflow:
    """A folder with a Snakefile, or a copy of the repository, whose jobs go to the cluster."""

    def __init__(self, cluster: Cluster, folder: Path, snakefile: str | None = None):
        self.folder, self.cluster, self.heads = folder, cluster, []
        code = str(ROOT if snakefile else folder)
        path = f"{Path(sys.executable).parent}:{cluster.env['PATH']}"
        self.env = cluster.env | {"PYTHONPATH": code, "PLUMBLINE": code, "PATH": path}
        if snakefile:
            (folder / "Snakefile").write_text(HEAD + snakefile)

    def start(self, *flags: str, profile: Path = PROFILE) -> subprocess.Popen:
        """Start a head process; what it prints is kept in the folder's `log`."""
        command = [sys.executable, "-m", "snakemake", "--workflow-profile", str(profile), *BRISK, *flags]
        with open(self.folder / "log", "a") as log:
            self.heads.append(
                subprocess.Popen(command, cwd=self.folder, env=self.env, stdout=log, stderr=subprocess.STDOUT)
            )
        return self.heads[-1]

    def run(self, *flags: str, profile: Path = PROFILE, seconds: float = 300) -> None:
        """Run to the end; AssertionError with the head's last words if it fails."""
        assert self.start(*flags, profile=profile).wait(seconds) == 0, self.log()[-4000:]

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def orphans(self, *flags: str) -> str:
        command = [sys.executable, "-m", "workflow_scripts.plan.orphans", *flags]
        done = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def jobs(self, fields: str) -> list[list[str]]:
        return self.cluster.jobs(self.folder, fields)

    def until(self, condition: object, what: str, seconds: float = 240) -> None:
        try:
            self.cluster.until(condition, what, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.jobs('%i %T %k %N')}\n{self.log()[-3000:]}") from None

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []
