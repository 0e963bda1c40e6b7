"""What docs/sources.md names as shown by a test; such a test counts only where it runs."""

import re

import pytest

from tests.workflow import ROOT

PAGE = ROOT / "docs/sources.md"
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py::\w+)`", PAGE.read_text(encoding="utf-8"))))


def never_skipped(report: pytest.TestReport) -> None:
    """Let a test fail that the page names and that was skipped: what it shows was not shown."""
    if report.skipped and not hasattr(report, "wasxfail") and report.nodeid.partition("[")[0] in NAMED:
        report.outcome = "failed"
        report.longrepr = f"docs/sources.md names it, so it may not be skipped: {report.longrepr}"
