"""A plugin of pytest for tests in an emulated Python (tools/test-wheels.sh). Depends on pytest and hypothesis."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from hypothesis import settings

# Emulation is slow, and slower the first time.
settings.register_profile("emulated", deadline=None)
settings.load_profile("emulated")


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skips tests that start a process: the kernel cannot run this Python without the emulator."""

    def skipped(*_: Any, **__: Any) -> None:
        pytest.skip("it starts a process, which the emulated Python cannot")

    monkeypatch.setattr(subprocess, "Popen", skipped)
