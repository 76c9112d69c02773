"""What the standard's tests share: this pilot's settings and contract."""

# This file is the standard's: `copier update` replaces it. Write tests of your own in tests/.
from __future__ import annotations

import pytest
from standard_records import ROOT

from harness import pilot
from harness.pilot import Contract
from harness.settings import Settings, load_settings


def pytest_configure(config: pytest.Config) -> None:
    # Ibis speaks to older versions of both, and a team can do nothing about it.
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning:ibis")
    config.addinivalue_line("filterwarnings", "ignore:The 'future.infer_string' option")


@pytest.fixture(scope="session")
def settings() -> Settings:
    return load_settings(ROOT)


@pytest.fixture(scope="session")
def contract(settings: Settings) -> Contract:
    return pilot.load_contract(settings.pilot.package)
