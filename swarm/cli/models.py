"""``swarm models``: what is on this disk."""

from __future__ import annotations

from rich.table import Table

from swarm.cli.console import announce, table_console


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
    for column in table.columns:
        column.overflow = "fold"  # an id or a path that is cut can't be copied
    for model in found:
        table.add_row(
            model.id.name,
            model.id.digest[:12],
            str(model.spec.layers),
            str(model.spec.context_tokens),
            str(model.folder),
        )
    table_console().print(table)
