"""``swarm models``: what is on this disk; models got, imported, verified and removed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from swarm.cli import options
from swarm.cli.console import announce, confirmed, progress, table_console, working
from swarm.errors import ConfigError, ModelError
from swarm.types import LayerSpan

if TYPE_CHECKING:
    from swarm.models.store import LocalModel, ModelStore

app = typer.Typer(rich_markup_mode=None)

ROOMY_COLUMNS = 120
"""Below that a table would break ids and paths into pieces."""
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str, typer.Argument(metavar="ID", help="The model's id, as `swarm models` lists it.")]


def _store() -> ModelStore:
    # Imported here: readers of model files take a while to import, and `--help` should not.
    with working("Looking at the models here …"):
        from swarm.models.store import ModelStore

        return ModelStore()


@app.callback(invoke_without_command=True)
def models(ctx: typer.Context, as_json: Json = False) -> None:
    """List the models on this machine; the commands below get more, check them and remove them."""
    if ctx.invoked_subcommand is None:
        list_models(as_json)


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models in swarm's own folder, what is here of each, and what it takes on the disk.

    Example: `swarm models list --json`
    """
    store = _store()
    models = store.list()
    found = [_described(model) for model in models]
    if as_json:
        pins = [{"pin": _pin(store, model)} for model in models]
        typer.echo(json.dumps([about | pin for about, pin in zip(found, pins, strict=True)], indent=2))
        return
    if not found:
        announce(
            f"No models in {store.home / 'models'}. `swarm models pull ID` gets one; a node that joins a swarm gets "
            "what it needs from the others."
        )
        return
    if table_console().width < ROOMY_COLUMNS:
        announce("\n".join(_as_lines(model) for model in found))
        return
    table = Table("model", "digest", "layers here", "ends", "size", "context", "folder")
    for column in table.columns:
        column.overflow = "fold"  # an id or a path that is cut can't be copied
    for model in found:
        table.add_row(
            model["name"],
            model["digest"][:12],
            f"{', '.join(model['layers_here']) or 'none'} of {model['layers']}",
            "yes" if model["ends_here"] else "no",
            size(model["disk_bytes"]),
            str(model["context_tokens"]),
            model["folder"],
        )
    table_console().print(table)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="ID", help="A Hugging Face id, or a model of the swarm.")],
    layers: Annotated[str, typer.Option("--layers", metavar="A:B", help="Only what these layers need.")] = "",
    ends: Annotated[
        bool, typer.Option("--ends/--no-ends", help="Embedding, norm and head, which a front door needs.")
    ] = True,
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="WHERE",
            help="swarm: ask the node that runs here, which asks members and then the hub; hub: ask the hub alone. "
            "Default: swarm if a node runs here, else hub.",
        ),
    ] = "",
    bootstrap: options.Bootstrap = None,
    swarm_key_file: options.SwarmKeyFile = None,
    state: options.State = None,
    as_json: Json = False,
) -> None:
    """Get a model onto this disk, from members of a swarm or the Hugging Face hub.

    What is here already stays, what broke off is resumed. With --bootstrap it joins a swarm for as long as it takes.

    Examples: `swarm models pull Qwen/Qwen3-0.6B`, `swarm models pull Qwen/Qwen3-0.6B --layers 0:14`
    """
    from swarm.cli.pull import from_node, from_swarm, node_runs

    try:
        span: LayerSpan | Literal["all"] = LayerSpan.parse(layers) if layers else "all"
    except ValueError as exc:
        raise ConfigError(f"--layers: {exc}") from None
    if source not in ("", "swarm", "hub"):
        raise ConfigError(f"--from {source}: it is either swarm or hub")
    if bootstrap and source == "hub":
        raise ConfigError("--bootstrap leads to a swarm, --from hub asks none: say one of them")
    if bootstrap:
        found = from_swarm(name, span, ends, bootstrap, state, swarm_key_file)
    elif source == "swarm" or (not source and node_runs(state)):
        found = from_node(name, layers, ends, state)
    else:
        found = _store().obtain(name, span=span, ends=ends, progress=progress())
    _tell(found, as_json)


@app.command("import")
def import_gguf(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The file to convert.")],
    name: Annotated[
        str, typer.Option("--name", metavar="ORG/NAME", help="What the model is called from then on.")
    ],
) -> None:
    """Convert a GGUF file to a model folder in bfloat16, for `join --model ORG/NAME`.

    Example: `swarm models import ~/Downloads/model.gguf --name mine/model`
    """
    from swarm.models.gguf import convert

    store = _store()
    folder = store.folder(name)
    if folder.exists():
        raise ModelError(f"there is a model {name} already, in {folder}; choose another --name or remove it")
    convert(file.expanduser().absolute(), folder, progress=progress())
    announce(f"Model {name} is in {folder}.")


@app.command()
def verify(name: Name, as_json: Json = False) -> None:
    """Read every byte of a model again and compare it with what it should be. Exit code 1 when it is not.

    Example: `swarm models verify Qwen/Qwen3-0.6B`
    """
    from swarm.models.verify import verify as verify_model

    store = _store()
    checked = verify_model(store, name, progress())
    if as_json:
        typer.echo(json.dumps([_checked(one) for one in checked], indent=2))
    else:
        table = Table("file", "size", "state")
        for one in checked:
            table.add_row(one.name, size(one.octets), one.state)
        table_console().print(table)
    wrong = [one.name for one in checked if not one.right]
    if wrong:
        raise ModelError(
            f"{name}: {', '.join(wrong)} {'is' if len(wrong) == 1 else 'are'} damaged; delete what is damaged, "
            "and the next start fetches it again"
        )
    local = store.find(name)
    if not as_json and local is not None and ":" in (pin := _pin(store, local)):
        announce(
            f'By this line in another machine\'s settings every chunk of it is proven there:\npins = ["{pin}"]'
        )


@app.command()
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a model from swarm's own folder; folders adopted in place and other caches are left alone.

    Example: `swarm models remove Qwen/Qwen3-0.6B --yes`
    """
    store = _store()
    folders = store.folders(name)
    if not folders:
        raise ModelError(f"{name} is not in {store.home / 'models'}; `swarm models` lists what is")
    taken = sum(disk_bytes(folder) for folder in folders)
    if not yes and not confirmed(f"Delete {name}, {size(taken)} in {', '.join(map(str, folders))}?"):
        raise typer.Exit(1)
    store.remove(name)
    announce(f"Removed {name}: {size(taken)}.")


def _as_lines(model: dict[str, Any]) -> str:
    here = f"layers {', '.join(model['layers_here']) or 'none'} of {model['layers']}"
    ends = "with ends" if model["ends_here"] else "without ends"
    about = f"{here}, {ends}, {size(model['disk_bytes'])}, context {model['context_tokens']}"
    return f"{model['name']}@{model['digest'][:12]}\n  {about}\n  {model['folder']}"


def _tell(model: LocalModel, as_json: bool) -> None:
    described = _described(model)
    if as_json:
        typer.echo(json.dumps(described, indent=2))
    else:
        announce(f"Model {model.id} is in {model.folder}: {size(described['disk_bytes'])}.")


def _described(model: LocalModel) -> dict[str, Any]:
    here = [
        layer
        for layer in range(model.spec.layers)
        if not model.lacks(LayerSpan(layer, layer + 1), ends=False)
    ]
    return {
        "name": model.id.name,
        "digest": model.id.digest,
        "layers": model.spec.layers,
        "layers_here": _spans(here),
        "ends_here": not model.lacks(None, ends=True),
        "weight_bytes": sum(entry.size for entry in model.manifest.files),
        "disk_bytes": disk_bytes(model.folder),
        "context_tokens": model.spec.context_tokens,
        "dtype": model.spec.dtype,
        "folder": str(model.folder),
    }


def _pin(store: ModelStore, model: LocalModel) -> str:
    """Return what goes into the setting ``pins``: with the chunk root where this disk proves it."""
    from swarm.models.shared import SharedListing

    root = SharedListing(model.folder, model.manifest.files, store.cache).root()
    return f"{model.id.name}@{model.id.digest}" + (f":{root}" if root else "")


def _spans(layers: list[int]) -> list[str]:
    """Return layers as the fewest spans A:B."""
    from swarm.models.chunks import ranges_of

    return [f"{start}:{end}" for start, end in ranges_of(layers)]


def _checked(one: Any) -> dict[str, Any]:
    return {"file": one.name, "bytes": one.octets, "right": one.right, "state": one.state}


def disk_bytes(folder: Path) -> int:
    """Return what a folder takes on the disk: of a file with holes, only what is there."""
    found = 0
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            blocks = getattr(stat, "st_blocks", None)
            found += stat.st_size if blocks is None else min(blocks * 512, stat.st_size)
    return found


def size(octets: int) -> str:
    """Return bytes as people read them."""
    value, unit = float(octets), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
