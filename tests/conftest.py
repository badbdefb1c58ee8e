"""What holds for every test: a continuous integration run proves everything or fails, so a skip there is a failure."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

#: Set by GitHub and most others; `.ci/run` sets it too.
IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason: Any = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"Skipped, which CI does not accept. Install what the test needs (see .ci/run): {reason}"
    return report
