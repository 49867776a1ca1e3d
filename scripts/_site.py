"""MkDocs' hook: pages of the repository that lie outside docs/, and a site that asks no other host for anything.

Links stay as they are in the sources, where every reader of Markdown follows them. In the site ARCHITECTURE.md and
its like become pages, docs/decisions gets a list, and other linked files (a unit for systemd) are published, too.
"""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = {"ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md"}
DECISIONS = "decisions/index.md"
_HOME = "index.md"
_PUBLISHED = "files/"
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
# What makes a browser fetch something by itself; links that people follow are not meant.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|object)\b[^>]*?\b(?:src|data)=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preconnect|preload|icon|dns-prefetch))[^>]*?"
    r"\bhref=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|(?:url\(|@import )[\"']?(?:https?:)?//[^\"')\s]+",
    re.IGNORECASE,
)
# The theme's script loads it when a page has a diagram of Mermaid; ours are SVG files.
_MERMAID = re.compile(r"<pre class=[\"']?mermaid")
log = logging.getLogger("mkdocs.hooks.site")


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages of the repository's root, the list of decisions, and files that pages link to."""
    from mkdocs.structure.files import File

    for name in sorted(ROOT_PAGES):
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, name.lower(), content=text))
    files.append(File.generated(config, DECISIONS, content=_list_of_decisions()))
    for path in sorted(_linked_files(files)):
        content = (ROOT / path).read_bytes()
        files.append(File.generated(config, _PUBLISHED + path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Point links at where their targets are in the site."""
    source = page.file.src_uri
    return _outside_fences(markdown, lambda text: _LINK.sub(lambda link: _moved(link, source), text))


def on_post_build(*, config: Any) -> None:
    """Warn, which fails a strict build, of what a page would fetch from another host."""
    site = Path(config["site_dir"])
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css"), *site.rglob("*.svg")]):
        text = path.read_text(encoding="utf-8")
        for asked in {*_FETCHED.findall(text), *_MERMAID.findall(text)}:
            log.warning("%s would fetch from another host: %s", path.relative_to(site).as_posix(), asked)


def _list_of_decisions() -> str:
    rows = ["# Decisions", "", "What was chosen and why, one page each.", ""]
    for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"* [{path.name[:4]} {re.sub(r'^[0-9]+[.:]? *', '', title)}]({path.name})")
    return "\n".join(rows) + "\n"


def _linked_files(files: Any) -> set[str]:
    pages = {file.src_uri: file.content_string for file in files if file.is_documentation_page()}
    targets = {
        _in_repository(uri, link[2])
        for uri, text in pages.items()
        for link in _LINK.finditer(_FENCE.sub("", text))
    }
    return {path for path in targets if _in_site(path) == _PUBLISHED + path and (ROOT / path).is_file()}


def _moved(link: re.Match[str], source: str) -> str:
    target = _in_site(_in_repository(source, link[2]))
    return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(source) or '.')}{link[3] or ''}{link[4]}"


def _in_repository(source: str, target: str) -> str:
    """Return the path in the repository that a link of a page means."""
    folder = "" if source.upper() in {name.upper() for name in ROOT_PAGES} else "docs"
    return posixpath.normpath(posixpath.join(folder, posixpath.dirname(source), target))


def _in_site(path: str) -> str:
    if path in ROOT_PAGES:
        return path.lower()
    if path == "README.md":
        return _HOME
    if path in ("docs/decisions", "docs/" + DECISIONS):
        return DECISIONS
    return path.removeprefix("docs/") if path.startswith("docs/") else _PUBLISHED + path


def _outside_fences(markdown: str, change: Any) -> str:
    parts: list[str] = []
    end = 0
    for fence in _FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
