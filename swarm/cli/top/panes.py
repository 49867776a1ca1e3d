"""The pages of ``swarm top``: widgets that are handed rows and lines, and colour them. They decide nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.coordinate import Coordinate
from textual.widgets import DataTable, Static

from swarm.cli.top import picture, view
from swarm.cli.top.view import Line, State, Tone

TONES: Mapping[Tone, str] = {
    "good": "text-success",
    "bad": "text-error",
    "busy": "text-warning",
    "own": "text-primary",
}
"""Which of the theme's colours a tone has: readable on dark and on light."""
STYLES: Mapping[Tone, str] = {"strong": "bold", "dim": "dim"}


def styled(line: Line, colours: Mapping[str, str]) -> Text:
    """Return a line with the colours of a theme; the words alone tell everything, too."""
    text = Text()
    for cell in line:
        text.append(cell.text, style=_style(cell.tone, colours))
    return text


def _style(tone: Tone, colours: Mapping[str, str]) -> str:
    if tone == "hole":
        return f"bold #ffffff on {colours['error']}"
    return STYLES.get(tone) or colours.get(TONES.get(tone, ""), "")


class Lines(Static):
    """Some lines of words."""

    def __init__(self, *, id: str, classes: str = "") -> None:  # noqa: A002 - Textual's own word
        super().__init__("", markup=False, id=id, classes=classes)
        self._shown: tuple[list[Line], str] | None = None

    def show(self, lines: Iterable[Line]) -> None:
        shown = (list(lines), self.app.theme)
        if shown != self._shown:
            self._shown = shown
            colours = self.app.theme_variables
            self.update(Text("\n").join(styled(line, colours) for line in shown[0]))


class Rows(DataTable[Text]):
    """A table that is filled anew with every state, and keeps its cursor on the row it was on."""

    def __init__(self, *, id: str) -> None:  # noqa: A002 - Textual's own word
        super().__init__(id=id, cursor_type="row", zebra_stripes=False)
        self._shown: view.Table | None = None
        self._theme = ""

    @property
    def chosen(self) -> str | None:
        """The key of the row under the cursor."""
        rows = self._shown.rows if self._shown else ()
        return rows[self.cursor_row].key if 0 <= self.cursor_row < len(rows) else None

    def show(self, table: view.Table) -> None:
        theme = self.app.theme
        if table == self._shown and theme == self._theme:
            return
        chosen, scrolled = self.chosen, self.scroll_offset
        if self._shown is None or table.columns != self._shown.columns:
            self.clear(columns=True)
            self.add_columns(*table.columns)
        else:
            self.clear()
        colours = self.app.theme_variables
        for row in table.rows:
            self.add_row(*(styled((cell,), colours) for cell in row.cells), key=row.key)
        self._shown, self._theme = table, theme
        place = next((at for at, row in enumerate(table.rows) if row.key == chosen), None)
        if place is not None:
            self.cursor_coordinate = Coordinate(place, 0)
            self.scroll_to(scrolled.x, scrolled.y, animate=False)


class NetworkPage(Vertical):
    """The members; below, what is known of the one that is chosen."""

    DEFAULT_CSS = """
    NetworkPage > #members { height: 1fr; }
    NetworkPage > #about { height: auto; max-height: 50%; border-top: solid $primary; padding: 0 1; }
    """

    def compose(self) -> ComposeResult:
        yield Rows(id="members")
        with VerticalScroll(id="about", can_focus=False):
            yield Lines(id="member")

    def show(self, state: State) -> None:
        members = self.query_one("#members", Rows)
        members.show(view.network(state, self.app.size.width))
        self.query_one("#member", Lines).show(view.member_details(state, members.chosen or state["node"]))


class ModelsPage(Vertical):
    """The models, and their layers as a picture."""

    DEFAULT_CSS = """
    ModelsPage > #models { height: auto; max-height: 40%; }
    ModelsPage > #layers { height: 1fr; border-top: solid $primary; padding: 0 1; }
    """

    def compose(self) -> ComposeResult:
        yield Rows(id="models")
        with VerticalScroll(id="layers"):
            yield Lines(id="pictures")

    def show(self, state: State) -> None:
        self.query_one("#models", Rows).show(view.models(state))
        self.query_one("#pictures", Lines).show(picture.pictures(state, self.app.size.width - 4))

    @property
    def chosen(self) -> str | None:
        return self.query_one("#models", Rows).chosen


class JobsPage(Vertical):
    """The running answers."""

    DEFAULT_CSS = """
    JobsPage > #jobs { height: 1fr; }
    JobsPage > #load { padding: 0 1; color: $text-muted; }
    """

    def __init__(self, rates: view.Rates) -> None:
        super().__init__()
        self._rates = rates

    def compose(self) -> ComposeResult:
        yield Rows(id="jobs")
        yield Lines(id="load")

    def show(self, state: State) -> None:
        self.query_one("#jobs", Rows).show(view.jobs(state, self._rates))
        self.query_one("#load", Lines).show(view.job_lines(state))


class ServerPage(Vertical):
    """The front door and its keys."""

    DEFAULT_CSS = """
    ServerPage > #door { padding: 1; }
    ServerPage > #keys { height: 1fr; }
    """

    def compose(self) -> ComposeResult:
        yield Lines(id="door")
        yield Rows(id="keys")

    def show(self, state: State) -> None:
        self.query_one("#door", Lines).show(view.server(state))
        self.query_one("#keys", Rows).show(view.keys(state))

    @property
    def chosen(self) -> str | None:
        return self.query_one("#keys", Rows).chosen
