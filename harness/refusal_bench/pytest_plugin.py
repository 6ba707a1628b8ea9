"""A team's refusal policy as pytest tests: the fixtures `refusal_record` and `refusal_baseline`.

pytest --refusal-record runs/candidate/RUN_ID --refusal-baseline leaderboards/records/base/RUN_ID.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from refusal_bench.record import Record


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--refusal-record` and `--refusal-baseline`."""
    group = parser.getgroup("refusal-bench")
    for name, what in (("record", "record under test"), ("baseline", "record it is compared with")):
        group.addoption(
            f"--refusal-{name}", metavar="RECORD", help=f"{what}: a record file, a run's folder or a leaderboard name"
        )


@pytest.fixture(scope="session")
def refusal_record(pytestconfig: pytest.Config) -> Record:
    """The record that `--refusal-record` names."""
    return _record(pytestconfig, "--refusal-record")


@pytest.fixture(scope="session")
def refusal_baseline(pytestconfig: pytest.Config) -> Record:
    """The record that `--refusal-baseline` names."""
    return _record(pytestconfig, "--refusal-baseline")


def _record(config: pytest.Config, option: str) -> Record:
    # Imported here: the plugin is loaded by every pytest of an environment that has refusal-bench.
    from pathlib import Path

    from refusal_bench.comparison.sources import find
    from refusal_bench.errors import InputError

    name = config.getoption(option)
    if name is None:
        # Not a skip: a policy that silently did not run would look like one that held.
        raise pytest.UsageError(f"this test needs {option} RECORD")
    try:
        return find(name, Path("leaderboards")).record
    except InputError as error:
        raise pytest.UsageError(str(error)) from error
