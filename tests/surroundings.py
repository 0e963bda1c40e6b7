"""A user and a disk of a test's own, made by `unshare`; where that is not allowed a test is skipped."""

import shutil
import subprocess

import pytest

# Whose temporary folder has a disk of its own, 16 KiB of it, all taken.
FULL = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]


def needs(command: list[str]) -> None:
    """Skip the test where a command of `unshare` may not be run."""
    done = (
        subprocess.run([*command, "true"], capture_output=True, check=False)
        if shutil.which(command[0])
        else None
    )
    if done is None or done.returncode:
        pytest.skip("no user namespaces here")
