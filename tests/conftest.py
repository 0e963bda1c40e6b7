"""Fixtures shared by the tests. Nothing here imports torch before a test asks for a model."""

import os
import shutil
import signal
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.dry_runs import without_messages
from tests.slurm_cluster import Cluster, Unavailable, slurm_cluster
from tests.sources_page import never_skipped
from tests.workflow import copy_with_study, finish
from workflow_scripts.study.settling.lock import JOB

# A shell's background job, as a test run may be, ignores interrupts, and what it starts would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault(JOB, "yes")  # no test asks a hub, but those that have one of their own
# No test is timed, and each run tries the same examples: what one says of a change, the next says, too.
settings.register_profile(
    "plumbline", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("plumbline")

# Files that run studies with their models, several processes, or a cluster: minutes each, `make test-runs`. Of two
# cores, one that begins such a file last works on alone after the other has ended, so the longest are first.
RUNS = (
    "test_slurm",  # it mostly waits
    "test_staleness",
    "test_judged_study",
    "test_sharded",
    "test_shared_store",
    "test_sharded_adapters",
    "test_processes",
    "test_ppo_processes",
    "test_four_bits",
    "test_export",
    "test_accept",
    "test_judged_pairs_study",
    "test_chat_study",
    "test_outside_study",
    "test_portable",
    "test_vllm_beside",
    "test_chosen_study",
    "test_diverged_study",
    "test_synthesis_study",
    "test_orphans",
    "test_shards",
    "test_staleness_functions",
    "test_growing",
    "test_growing_study",
)
SLOW = ("test_published_studies", "test_shell_lines")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs studies, and begin with the slow files, the slowest first; all else keeps its order."""
    ranks = {name: rank for rank, name in enumerate((*RUNS, *SLOW))}
    for item in items:
        if item.path.stem in RUNS:
            item.add_marker("runs")
    items.sort(key=lambda item: ranks.get(item.path.stem, len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let no test be skipped that the page on the sources names."""
    report = yield
    never_skipped(report)
    return report


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: a tiny random Llama in safetensors with its own fast tokenizer."""
    from tests.tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default study, finished without its cost (see tests.workflow). No test changes it: `study` is a copy."""
    folder = copy_with_study(tmp_path_factory.mktemp("study"))
    finish(folder)
    return folder


@pytest.fixture(scope="session")
def exported_study(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """The finished study of tests.export_study. No test changes it."""
    from tests.export_study import finished_study

    return finished_study(tmp_path_factory.mktemp("exported") / "study", tiny_model)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository, one for all tests of a module."""
    return copy_with_study(tmp_path_factory.mktemp("copy"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository for the dry-runs of tests.dry_runs."""
    return without_messages(tmp_path_factory.mktemp("fresh"))


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study that a test may change; time stamps are kept."""
    folder = tmp_path / "study"
    shutil.copytree(finished, folder, symlinks=True)
    return folder


@pytest.fixture(scope="session")
def found_sandbox() -> object:
    """The sandbox that programs run in here; without one the tests that ask for it are skipped."""
    from workflow_scripts.common.programs.sandbox import SandboxMissing, find_sandbox

    try:
        return find_sandbox()
    except SandboxMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def quick_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge's client that has the key of tests.judge_requests and hardly waits before it asks again."""
    from tests.judge_requests import KEY
    from workflow_scripts.common.asking import client

    monkeypatch.setenv("TEST_JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(client, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A real SLURM on this machine; without one the tests that ask for it are skipped."""
    try:
        with slurm_cluster() as running:
            yield running
    except Unavailable as reason:
        pytest.skip(str(reason))
