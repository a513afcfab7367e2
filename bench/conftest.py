"""Configures `make bench`: a progress bar, and the measurements' circumstances in the JSON that pytest-benchmark stores."""

from typing import Any

import pytest
from tqdm import tqdm

from .formulations import machine
from .torch_layers import VERSION


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info |= machine() | {"torch": VERSION}


def pytest_collection_finish(session: pytest.Session) -> None:
    if not session.config.option.collectonly:
        session.config.pluginmanager.register(ProgressBar(len(session.items)))


class ProgressBar:
    """Names the layer and direction that run; stands in for pytest's dots."""

    def __init__(self, total: int):
        self.bar = tqdm(total=total, unit="row")

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.bar.set_description(nodeid.partition("[")[2].removesuffix("]"))

    def pytest_runtest_logfinish(self) -> None:
        self.bar.update()

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        return ("passed", "", "") if report.when == "call" and report.passed else None

    def pytest_sessionfinish(self) -> None:
        self.bar.close()
