"""The real Prefect, MLflow and Ray of a test run, started when the first test asks for them, and a browser.

Their addresses stand in the environment from the start, for Prefect reads its settings when it is first imported; no
test can then reach the services that a developer has running.
"""

import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra import local, processes
from infra.services import Services
from infra.state import Ports

CHROMIUM = Path("/usr/bin/chromium")
STATE = Path(tempfile.mkdtemp(prefix="fm-tests-")).resolve()


def free_ports() -> Ports:
    """Five free ports in a row."""
    while True:
        base = random.randrange(20000, 32000, 5)
        if not any(processes.port_in_use(port) for port in range(base, base + 5)):
            return Ports.from_base(base)


PORTS = free_ports()
os.environ.update(Services.at(STATE, PORTS).environment())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need the services or a browser are marked by their fixtures, and come last."""
    for item in items:
        for name in ("services", "browser"):
            if name in getattr(item, "fixturenames", ()):
                item.add_marker(name)
    items.sort(key=lambda item: item.get_closest_marker("services") is not None)


def pytest_unconfigure() -> None:
    shutil.rmtree(STATE, ignore_errors=True)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Prefect with a worker, MLflow and a Ray head, in the environment; at the end nothing of them may be left."""
    found = local.up(STATE, PORTS)
    yield found
    started = processes.belonging(STATE, marked=True)
    ports = [c.laddr.port for p in started for c in p.net_connections("tcp") if c.status == "LISTEN"]
    assert local.down(STATE) == ["worker", "ray", "mlflow", "prefect"]
    assert len(ports) > 5
    assert [port for port in ports if processes.port_in_use(port)] == []
    assert [process for process in started if process.is_running()] == []
    assert processes.belonging(STATE, marked=True) == []


@pytest.fixture
def browser() -> Iterator[Any]:
    """Headless Chromium. For one test at a time: while Playwright runs, asyncio.run is refused in this thread."""
    if not CHROMIUM.exists():
        pytest.skip(f"no {CHROMIUM} on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()
