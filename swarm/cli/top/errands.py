"""What the person at the terminal has the node do: asked for beside everything else, shown while it is under way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from textual.widgets import Static

from swarm.cli.top.client import Ask
from swarm.cli.top.dialogs import MessageScreen
from swarm.errors import SwarmError
from swarm.node.control import AnyRequest, NodeRefusedError


class Errands(Static):
    """A line for each thing that the node has been asked for and has not answered; hidden without any."""

    DEFAULT_CSS = """
    Errands { height: auto; padding: 0 1; background: $panel; color: $text-warning; display: none; }
    Errands.shown { display: block; }
    """

    def __init__(self, ask: Ask) -> None:
        super().__init__("", id="doing", markup=False)
        self._ask = ask
        self._under_way: list[str] = []

    def run(
        self,
        doing: str,
        request: AnyRequest,
        then: Callable[[dict[str, Any]], None] | None = None,
        refused: Callable[[NodeRefusedError], Awaitable[bool]] | None = None,
    ) -> None:
        """Ask the node; what it says if it does not do it is shown, unless ``refused`` returns that it saw to that."""
        self.app.run_worker(self._run(doing, request, then, refused), name=doing)

    async def _run(
        self,
        doing: str,
        request: AnyRequest,
        then: Callable[[dict[str, Any]], None] | None,
        refused: Callable[[NodeRefusedError], Awaitable[bool]] | None,
    ) -> None:
        self._under_way.append(doing)
        self._show()
        try:
            answer = await self._ask(request)
        except NodeRefusedError as exc:
            if refused is None or not await refused(exc):
                self.app.push_screen(MessageScreen("The node says no", str(exc)))
        except SwarmError as exc:
            self.app.push_screen(MessageScreen("That did not work", str(exc)))
        else:
            self.app.notify(f"Done: {doing}.", markup=False)
            if then is not None:
                then(answer)
        finally:
            self._under_way.remove(doing)
            self._show()

    def _show(self) -> None:
        self.update("\n".join(f"{doing} …" for doing in self._under_way))
        self.set_class(bool(self._under_way), "shown")
