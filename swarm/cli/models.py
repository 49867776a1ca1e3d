"""``swarm models``: what is on this disk."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from swarm.cli.console import announce


def models() -> None:
    """List the models on this machine."""
    # Imported here: readers of model files take a while to import, and `--help` should not.
    from swarm.models.store import ModelStore

    store = ModelStore()
    found = store.list()
    if not found:
        announce(f"No models in {store.home / 'models'}.")
        return
    table = Table("model", "digest", "layers", "context", "folder")
    for model in found:
        table.add_row(
            model.id.name,
            model.id.digest[:12],
            str(model.spec.layers),
            str(model.spec.context_tokens),
            str(model.folder),
        )
    Console().print(table)
