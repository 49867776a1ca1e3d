"""The documentation says what the code does."""

from __future__ import annotations

from pathlib import Path

from swarm.config.reference import page

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_configuration_page_is_the_one_generated_from_the_settings() -> None:
    written = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert written == page(), "run: python -m swarm config --reference > docs/configuration.md"
