"""The pages of the documentation, read as Markdown: code blocks, links, the anchors of headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], key=str)

_SHELL_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*")
_ASSIGNMENT = re.compile(r"[A-Z_]+=")
_SEPARATORS = set("();&|\n")


@dataclass(frozen=True)
class Block:
    """A fenced code block; ``info`` is what stands behind the opening fence."""

    page: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.partition(" ")[0]

    @property
    def title(self) -> str:
        found = re.search(r'title="([^"]*)"', self.info)
        return found[1] if found else ""

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"

    @property
    def shell(self) -> str:
        """What a user types: of a console block the lines behind the prompt."""
        if self.language != "console":
            return self.text
        return "".join(re.findall(r"^\$ ((?:.*\\\n)*.*\n)", self.text, re.MULTILINE))


def blocks(*languages: str) -> list[Block]:
    """Return the code blocks of all pages in these languages; all blocks without any."""
    found = [
        Block(page, (token.map or [0])[0] + 1, token.info.strip(), token.content)
        for page in PAGES
        for token in tokens(page)
        if token.type == "fence"
    ]
    return [block for block in found if not languages or block.language in languages]


def inline_code(page: Path) -> list[str]:
    return [
        child.content
        for token in tokens(page)
        for child in token.children or ()
        if child.type == "code_inline"
    ]


def links(page: Path) -> list[str]:
    """Return where the links and pictures of a page lead, as written."""
    attributes = [
        child.attrs.get("href") or child.attrs.get("src")
        for token in tokens(page)
        for child in token.children or ()
    ]
    return [str(target) for target in attributes if target]


def anchors(page: Path) -> set[str]:
    """Return the anchors that readers of Markdown give a page's headings."""
    found: set[str] = set()
    read = tokens(page)
    for at, token in enumerate(read):
        if token.type == "heading_open":
            text = "".join(child.content for child in read[at + 1].children or ())
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found


@cache
def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def commands(shell: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell text, without assignments and redirections."""
    text = _SHELL_COMMENT.sub("", shell.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    redirected = False
    for word in [*lexer, "\n"]:
        if set(word) <= _SEPARATORS:
            if words:
                yield words
            words = []
        elif set(word) <= set("<>"):
            redirected = True
        elif redirected:
            redirected = False
        elif words or not _ASSIGNMENT.match(word):
            words.append(word)
