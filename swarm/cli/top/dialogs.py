"""What ``swarm top`` asks and tells in front of everything else. Each is left with a key; Escape changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

HELP = """\
1 2 3 4  the pages; arrows move in a table
t        dark or light
q        quit; the node goes on

Models
l        hold other layers: A:B (A up to, not including, B), auto, none
a        let the node choose its layers by itself
r        leave the chosen model: hold nothing of it
A digit is how many nodes hold a layer, × a hole that nobody fills.
Bars are who holds what; * is this node, ░ is about to be loaded.

Server
o        open the front door where it was, or at 127.0.0.1:8000
p        move it to another port; answers at the old one may end
x        close it
k        let clients in with a key that you type
n        let clients in with a new key, which is shown once
d        let nobody in any more with the chosen key

What is changed here lasts until the node ends."""

BOX = """
{name} {{ align: center middle; }}
{name} > #box {{
    width: 78; max-width: 96%; height: auto; max-height: 100%; padding: 0 2;
    border: round $primary; background: $surface;
}}
{name} .title {{ text-style: bold; margin-bottom: 1; }}
{name} .keys {{ color: $text-muted; margin-top: 1; }}
{name} .hint {{ color: $text-muted; }}
"""


class MessageScreen(ModalScreen[None]):
    """Says something that must not be missed, word for word."""

    DEFAULT_CSS = BOX.format(name="MessageScreen")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q,question_mark", "dismiss", "Close", show=False)
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._heading = title
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box"):
            yield Label(self._heading, classes="title", markup=False)
            yield Static(self._text, id="text", markup=False)
            yield Label("Enter or Esc: close", classes="keys")

    def on_mount(self) -> None:
        self.query_one("#box").focus()


class ConfirmScreen(ModalScreen[bool]):
    """Asks before something is done that others will notice."""

    DEFAULT_CSS = BOX.format(name="ConfirmScreen")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", show=False),
        Binding("n,escape,enter", "answer(False)", "No", show=False),
    ]

    def __init__(self, question: str, text: str) -> None:
        super().__init__()
        self._question = question
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="box"):
            yield Label(self._question, classes="title", markup=False)
            yield Static(self._text, id="text", markup=False)
            yield Label("y: yes    n, Enter or Esc: no", classes="keys")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


@dataclass(frozen=True, slots=True)
class Field:
    """One line to fill in."""

    name: str
    label: str
    value: str = ""
    hint: str = ""
    secret: bool = False


class FormScreen(ModalScreen[dict[str, str] | None]):
    """Asks for a few lines; gives them by their names, or None."""

    DEFAULT_CSS = BOX.format(name="FormScreen")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "Cancel", show=False)]

    def __init__(self, title: str, fields: Sequence[Field]) -> None:
        super().__init__()
        self._heading = title
        self._fields = tuple(fields)

    def compose(self) -> ComposeResult:
        with Vertical(id="box"):
            yield Label(self._heading, classes="title", markup=False)
            for field in self._fields:
                yield Label(field.label, markup=False)
                yield Input(field.value, password=field.secret, id=f"field-{field.name}", compact=True)
                if field.hint:
                    yield Label(field.hint, classes="hint", markup=False)
            yield Label("Enter: next, and done    Tab: next    Esc: cancel", classes="keys")

    def on_mount(self) -> None:
        # What is known already is rarely what is to be changed.
        empty = next((field for field in self._fields if not field.value), self._fields[-1])
        self.query_one(f"#field-{empty.name}", Input).focus()

    def on_input_submitted(self) -> None:
        filled = {
            field.name: self.query_one(f"#field-{field.name}", Input).value.strip() for field in self._fields
        }
        unfilled = next((name for name, value in filled.items() if not value), None)
        if unfilled is None:
            self.dismiss(filled)
        else:
            self.query_one(f"#field-{unfilled}", Input).focus()

    def action_leave(self) -> None:
        self.dismiss(None)
