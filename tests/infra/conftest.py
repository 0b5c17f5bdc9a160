"""A state folder whose services are stand-ins, taken down and looked through at the end; ports for them."""

import os

import pytest

from infra import local, processes
from infra.state import Ports
from tests.infra.stand_ins import stand_ins


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "services", stand_ins)
    yield tmp_path
    local.down(tmp_path)
    assert processes.belonging(tmp_path, marked=True) == []


@pytest.fixture
def ports():
    base = 25000 + os.getpid() % 1000 * 5  # below those that the system hands out
    while any(processes.port_in_use(port) for port in range(base, base + 5)):
        base += 5
    return Ports.from_base(base)
