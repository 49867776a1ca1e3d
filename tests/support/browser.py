"""A real Chromium at the page: its looks, and what a page complains of or asks of others."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

SHOTS = Path(os.environ["SWARM_SCREENSHOTS"])
CHROMIUM_OPTIONS = [
    "--no-sandbox",  # Chromium's own sandbox refuses to run as root, as CI does
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
DESK = {"width": 1200, "height": 900}
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESK},
    "dark": {"viewport": DESK, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2,
    },
}  # fmt: skip


@dataclass
class Watched:
    """A page, and everything it complained of or asked of other servers."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._asked)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.foreign.append(request.url)

    def open(self, part: str = "") -> Page:
        self.page.goto(f"{self.url}/{part}")
        expect(self.page.locator("#connection")).to_have_text("Live", timeout=20_000)
        return self.page


def ask(page: Page, text: str) -> None:
    page.fill("#text", text)
    page.keyboard.press("Enter")


def set_temperature(page: Page, value: str) -> None:
    page.locator("summary", has_text="Settings").click()
    page.fill("#temperature", value)
    page.locator("summary", has_text="Settings").click()
