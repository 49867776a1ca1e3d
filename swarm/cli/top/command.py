"""``swarm top``: starts the terminal user interface, where its library is installed."""

from __future__ import annotations

import importlib.util
import sys

from swarm.cli import options
from swarm.errors import ConfigError


def top(state: options.State = None) -> None:
    """Watch and steer the node on this machine in the terminal: network, models and spans, jobs, server.

    Opens, moves and closes the front door, changes API keys, and changes which layers are held. Keys are shown at
    the bottom; ? explains them.

    Example: `swarm top`
    """
    if importlib.util.find_spec("textual") is None:
        raise ConfigError("`swarm top` needs Textual: pip install 'textual>=8,<9', or '.[tui]' in a clone")
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "`swarm top` needs a terminal; for scripts there are `swarm status`, `layers` and `door`"
        )
    from swarm.cli.top.app import TopApp
    from swarm.cli.top.client import asking

    folder = options.state_folder(state)
    TopApp(asking(folder), str(folder)).run()
