"""``swarm models``: what is on this disk, and GGUF files made into models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from swarm.cli.console import announce, progress, table_console
from swarm.errors import ModelError

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def models(ctx: typer.Context) -> None:
    """List the models on this machine; `models import` adds one from a GGUF file."""
    if ctx.invoked_subcommand is not None:
        return
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


@app.command("import")
def import_gguf(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to convert.")],
    name: Annotated[
        str, typer.Option("--name", metavar="ORG/NAME", help="What the model is called from then on.")
    ],
) -> None:
    """Convert a GGUF file to a model folder in bfloat16, for `join --model ORG/NAME`."""
    from swarm.models.gguf import convert
    from swarm.models.store import ModelStore

    store = ModelStore()
    folder = store.folder(name)
    if folder.exists():
        raise ModelError(f"there is a model {name} already, in {folder}; choose another --name or delete it")
    convert(file.expanduser().absolute(), folder, progress=progress())
    announce(f"Model {name} is in {folder}.")
