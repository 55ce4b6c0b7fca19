"""What processes share stays whole while those that write and read it are killed; see scripts/kill_storm.py."""

from pathlib import Path

import pytest
from support import THOUSAND, run_script

STORM = Path(__file__).parent / "scripts" / "kill_storm.py"


@pytest.mark.parametrize("rounds", [20, pytest.param(THOUSAND // 5, marks=pytest.mark.slow)])
def test_a_storm_of_deaths_leaves_whole_values_and_no_memory(rounds):
    run_script(STORM, rounds, limit=240)
