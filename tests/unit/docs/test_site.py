"""What MkDocs' hook makes of pages, and what it holds a built site to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from scripts import _site


@pytest.mark.parametrize(
    "asked",
    [
        '<script src="https://unpkg.com/mermaid"></script>',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="//cdn.example/a.css" rel="stylesheet">',
        "<link rel=preconnect href=https://fonts.example>",
        '<img alt="x" src="http://img.example/a.png">',
        "<style>@import 'https://a.example/b.css'; p { background: url(https://a.example/c.png) }</style>",
        '<pre class="mermaid"><code>a --> b</code></pre>',
    ],
)
def test_what_a_page_would_fetch_elsewhere_is_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, asked: str
) -> None:
    (tmp_path / "page.html").write_text(f"<p>before</p>\n{asked}\n<p>behind</p>", encoding="utf-8")
    _site.on_post_build(config={"site_dir": str(tmp_path)})
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert caplog.records[0].getMessage().startswith("page.html would fetch from another host")


def test_links_that_people_follow_and_files_of_the_site_itself_are_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = '<a href="https://example.org/">x</a> <link rel="canonical" href="https://example.org/">'
    own = '<script src="assets/a.js"></script><img src="images/a.svg"><link rel="stylesheet" href="a.css">'
    (tmp_path / "page.html").write_text(page + own, encoding="utf-8")
    _site.on_post_build(config={"site_dir": str(tmp_path)})
    assert caplog.records == []


@pytest.mark.parametrize(
    ("source", "written", "in_the_site"),
    [
        ("deploy.md", "[unit](../deploy/swarm.service)", "[unit](files/deploy/swarm.service)"),
        ("index.md", "[tree](../ARCHITECTURE.md#the-tree)", "[tree](architecture.md#the-tree)"),
        ("how-to/a.md", "[settings](../configuration.md)", "[settings](../configuration.md)"),
        ("how-to/a.md", "![p](../images/p.svg)", "![p](../images/p.svg)"),
        ("architecture.md", "[wire](docs/protocol.md)", "[wire](protocol.md)"),
        ("changelog.md", "[why](docs/decisions)", "[why](decisions/index.md)"),
        ("decisions/0001-a.md", "[start](../../README.md)", "[start](../index.md)"),
        ("a.md", "[x](https://example.org/a) [y](#here)", "[x](https://example.org/a) [y](#here)"),
        ("a.md", "```text\n[x](../LICENSE)\n```", "```text\n[x](../LICENSE)\n```"),
    ],
)
def test_a_link_of_the_sources_leads_to_the_same_page_in_the_site(
    source: str, written: str, in_the_site: str
) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri=source))
    assert _site.on_page_markdown(written, page=page) == in_the_site
