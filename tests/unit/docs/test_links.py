"""Links of the documentation lead somewhere, and so do the pages that errors and comments name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.support.pages import PAGES, ROOT, anchors, links

_ELSEWHERE = re.compile(r"[a-z]+:")
_NAMED = re.compile(r"`((?:swarm|tests|scripts|docs|deploy)/[\w/.-]+)`")
_PAGE = re.compile(r"\bdocs/[\w/-]+\.md\b")
_SECTION = re.compile(r"\b(docs/[\w/-]+\.md), \"([^\"]+)\"")
SOURCES = sorted(path for top in ("swarm", "scripts", "deploy") for path in ROOT.glob(f"{top}/**/*.*"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_and_every_path_of_a_page_leads_somewhere(page: Path) -> None:
    lost = []
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if _ELSEWHERE.match(link):
            continue
        if not path.exists() or (anchor and anchor not in anchors(path)):
            lost.append(link)
    named = _NAMED.findall(page.read_text(encoding="utf-8"))
    assert lost + [name for name in named if not (ROOT / name).exists()] == []


def test_a_link_to_another_place_names_how_to_get_there_safely() -> None:
    schemes = {link.partition(":")[0] for page in PAGES for link in links(page) if _ELSEWHERE.match(link)}
    assert schemes <= {"https"}


def test_every_page_and_section_that_the_code_names_exists() -> None:
    texts = {
        path: path.read_text(encoding="utf-8")
        for path in SOURCES
        if path.suffix in (".py", ".service", ".plist", ".toml", ".js", ".html")
    }
    named = {name for text in texts.values() for name in _PAGE.findall(text)}
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()
    sections = {section for text in texts.values() for section in _SECTION.findall(text)}
    assert len(sections) >= 2
    for page, title in sections:
        begun = title.lower().replace(" ", "-")
        assert [anchor for anchor in anchors(ROOT / page) if anchor.startswith(begun)], (page, title)


def test_every_page_has_a_place_in_the_site() -> None:
    # Only what names pages is read: the rest holds tags of Python's own.
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    placed = set(re.findall(r"([\w/-]+\.md)$", yaml.safe_dump(_nav(text)), re.MULTILINE))
    pages = {
        page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.is_relative_to(ROOT / "docs")
    }
    generated = {"architecture.md", "contributing.md", "changelog.md", "decisions/index.md"}
    assert {page for page in pages if not page.startswith("decisions/")} | generated == placed


def _nav(text: str) -> object:
    return yaml.safe_load(text[text.index("\nnav:") :])
