from __future__ import annotations

import re
from pathlib import Path

from tests.support.families import SETTINGS

PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def test_the_page_names_the_families_that_the_parity_suite_tests_and_no_others():
    table = PAGE.read_text(encoding="utf-8").partition("|---|")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines()[1:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(named) == sorted({family.partition(".")[0] for family in SETTINGS})
