"""``swarm top``: pages over one node's state, looked at twice a second, and what can be asked of the node.

Waits for nothing: the node is asked by threads (``client``), what is shown is worked out by ``view``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Footer, Static, TabbedContent, TabPane

from swarm.cli.doors import new_key
from swarm.cli.top import view
from swarm.cli.top.client import Ask
from swarm.cli.top.dialogs import HELP, ConfirmScreen, Field, FormScreen, MessageScreen
from swarm.cli.top.errands import Errands
from swarm.cli.top.panes import JobsPage, Lines, ModelsPage, NetworkPage, Rows, ServerPage
from swarm.errors import SwarmError
from swarm.node.control import (
    ChangeKeys,
    CloseDoor,
    GetState,
    NodeRefusedError,
    OpenDoor,
    SetLayers,
)
from swarm.routing.pinning import NobodyElseError

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 5.0
"""A node that answers nothing for so long is said not to answer."""
NETWORK, MODELS, JOBS, SERVER = "network", "models", "jobs", "server"
PAGE_OF = {
    "layers": MODELS,
    "choose": MODELS,
    "leave_model": MODELS,
    "open_door": SERVER,
    "close_door": SERVER,
    "move_door": SERVER,
    "add_key": SERVER,
    "new_key": SERVER,
    "remove_key": SERVER,
}
"""On which page an action is there."""


class TopApp(App[None]):
    """The whole program. ``ask`` asks the node, ``where`` names it to people while it has not answered."""

    TITLE = "swarm top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #title { height: 1; padding: 0 1; background: $panel; }
    #lost { height: auto; padding: 0 1; background: $error; color: white; display: none; }
    #lost.shown { display: block; }
    TabbedContent { height: 1fr; }
    TabPane { padding: 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", f"page('{NETWORK}')", "Network", show=False),
        Binding("2", f"page('{MODELS}')", "Models", show=False),
        Binding("3", f"page('{JOBS}')", "Jobs", show=False),
        Binding("4", f"page('{SERVER}')", "Server", show=False),
        Binding("l", "layers", "Layers"),
        Binding("a", "choose", "Auto"),
        Binding("r", "leave_model", "Remove"),
        Binding("o", "open_door", "Open"),
        Binding("x", "close_door", "Close"),
        Binding("p", "move_door", "Port"),
        Binding("k", "add_key", "Key"),
        Binding("n", "new_key", "New key"),
        Binding("d", "remove_key", "Delete key"),
        Binding("t", "theme", "Theme", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, ask: Ask, where: str) -> None:
        super().__init__()
        self._ask = ask
        self._where = where
        self._state: dict[str, Any] | None = None
        self._rates = view.Rates()
        self._page = NETWORK
        self._title = Lines(id="title")
        self._lost_line = Static("", id="lost", markup=False)
        self._errands = Errands(ask)
        self._models = ModelsPage()
        self._server = ServerPage()
        self._shown: dict[str, NetworkPage | ModelsPage | JobsPage | ServerPage] = {
            NETWORK: NetworkPage(),
            MODELS: self._models,
            JOBS: JobsPage(self._rates),
            SERVER: self._server,
        }

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._lost_line
        yield self._errands
        with TabbedContent(id="pages"):
            for number, (page, widget) in enumerate(self._shown.items(), 1):
                yield TabPane(f"{number} {page.capitalize()}", widget, id=page)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._title.show([(view.cell(f"asking the node of {self._where} …", "dim"),)])
        self.run_worker(self._watch(), name="watch")
        self._focus_page()

    # --- what is shown ---

    async def _watch(self) -> None:
        """Look at the node for ever; a node that is gone is said, and looked for again."""
        while True:
            looking = asyncio.ensure_future(self._ask(GetState()))
            while not (await asyncio.wait({looking}, timeout=PATIENCE_SECONDS))[0]:
                self._lost(f"the node of {self._where} does not answer; waiting for it")
            try:
                state = looking.result()
            except SwarmError as exc:
                self._lost(f"{exc} (trying again)")
            else:
                self._found(state)
            await asyncio.sleep(LOOK_SECONDS)

    def _lost(self, text: str) -> None:
        self._lost_line.update(text)
        self._lost_line.add_class("shown")

    def _found(self, state: dict[str, Any]) -> None:
        self._lost_line.remove_class("shown")
        self._state = state
        self._rates.observe(state, time.monotonic())
        self._show()

    def _show(self) -> None:
        page = self._shown[self._page]
        # While the program ends its widgets go one by one.
        if self._state is not None and page.is_attached and page.children:
            self._title.show([view.title(self._state)])
            page.show(self._state)

    def on_tabbed_content_tab_activated(self, event: TabbedContent.TabActivated) -> None:
        self._page = event.pane.id or NETWORK
        self.refresh_bindings()
        self._show()

    def on_data_table_row_highlighted(self) -> None:
        self._show()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def check_action(self, action: str, _parameters: tuple[object, ...]) -> bool | None:
        """Offer what belongs to the page that is shown."""
        return PAGE_OF.get(action, self._page) == self._page

    def _focus_page(self) -> None:
        """Arrows move in the page's table at once."""
        self._shown[self._page].query(Rows).first().focus()

    # --- keys ---

    def action_page(self, page: str) -> None:
        self._page = page
        self.screen_stack[0].query_one("#pages", TabbedContent).active = page
        # A hidden table can't be focused, and one that is focused while hidden brings its page back.
        self.call_after_refresh(self._focus_page)

    def action_theme(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"
        self.call_after_refresh(self._show)

    def action_help(self) -> None:
        self.push_screen(MessageScreen("swarm top", HELP))

    def action_layers(self) -> None:
        held = self._held()
        model = self._models.chosen or ""
        told = held.get("told", "") if held else ""
        fields = [
            Field("model", "Model", model, "as listed, a Hugging Face id or a folder"),
            Field(
                "layers",
                "Layers",
                told if told not in ("", "none") else "",
                "A:B, auto or none; for example 0:15",
            ),
        ]

        def asked(given: dict[str, str] | None) -> None:
            if given is not None:
                self._set_layers(given["model"], given["layers"])

        self.push_screen(FormScreen("Layers that this node holds", fields), asked)

    def action_choose(self) -> None:
        if model := self._chosen_model():
            self._set_layers(model, "auto")

    def action_leave_model(self) -> None:
        if model := self._chosen_model():
            self._confirm(
                f"Hold nothing of {model} any more?",
                "Its answers move to other nodes that hold the same layers; then the memory is freed.",
                lambda: self._set_layers(model, "none"),
            )

    def action_open_door(self) -> None:
        self._errands.run("opening the front door", OpenDoor())

    def action_close_door(self) -> None:
        self._confirm(
            "Close the front door?",
            "Its clients can't reach it then; answers that run get a few seconds to end.",
            lambda: self._errands.run("closing the front door", CloseDoor()),
        )

    def action_move_door(self) -> None:
        listen = self._state["door"]["listen"] if self._state else None
        field = Field("listen", "Port, or HOST:PORT", "", f"now at {listen}" if listen else "now closed")

        def asked(given: dict[str, str] | None) -> None:
            if given is not None:
                self._errands.run(f"opening the front door at {given['listen']}", OpenDoor(given["listen"]))

        self.push_screen(FormScreen("Where the front door listens", [field]), asked)

    def action_add_key(self) -> None:
        field = Field("key", "API key", "", "it is not shown, here or later", secret=True)

        def asked(given: dict[str, str] | None) -> None:
            if given is not None:
                self._errands.run("adding an API key", ChangeKeys(add=(given["key"],)))

        self.push_screen(FormScreen("Let clients in with one more key", [field]), asked)

    def action_new_key(self) -> None:
        key = new_key()

        def show(_answer: dict[str, Any]) -> None:
            self.push_screen(MessageScreen("A new API key, shown this once", key))

        self._errands.run("adding an API key", ChangeKeys(add=(key,)), show)

    def action_remove_key(self) -> None:
        key = self._server.chosen
        if key is None:
            self.notify("There is no API key to delete.", markup=False)
            return
        last = self._state is not None and len(self._state["door"]["keys"]) == 1
        self._confirm(
            f"Delete the API key {key}?",
            "Nobody gets in with it any more; requests under way go on."
            + (
                " It is the last one: without keys the door lets in everybody on this machine."
                if last
                else ""
            ),
            lambda: self._errands.run("deleting an API key", ChangeKeys(remove=(key,))),
        )

    # --- asking the node ---

    def _held(self) -> dict[str, Any] | None:
        """What this node is told of the chosen model."""
        chosen = self._models.chosen
        holding = self._state["holding"] if self._state else []
        return next((one for one in holding if view.model_key(one["model"], one["digest"]) == chosen), None)

    def _chosen_model(self) -> str | None:
        chosen = self._models.chosen
        if chosen is None:
            self.notify("There is no model yet; press l to name one.", markup=False)
        return chosen

    def _set_layers(self, model: str, layers: str, *, force: bool = False) -> None:
        async def refused(error: NodeRefusedError) -> bool:
            if error.kind != NobodyElseError.__name__:
                return False
            self._confirm(
                "Do it all the same?", str(error), lambda: self._set_layers(model, layers, force=True)
            )
            return True

        shown = {"auto": "letting the node choose its layers", "none": f"leaving {model}"}
        self._errands.run(
            shown.get(layers, f"changing to layers {layers} of {model}"),
            SetLayers(layers, model, force),
            refused=refused,
        )

    def _confirm(self, question: str, text: str, do: Callable[[], None]) -> None:
        def answered(yes: bool | None) -> None:
            if yes:
                do()

        self.push_screen(ConfirmScreen(question, text), answered)
