"""The options that say what a setting says, described by the settings themselves, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from swarm.config import Config, load_config
from swarm.config.knob import knobs_of
from swarm.config.loading import flat_names
from swarm.errors import ConfigError

_ABOUT = {
    "api_key": "A key that clients of the API must show. Other users of this machine can see it here: "
    "better --api-key-file or SWARM_API_KEYS."
}


def _setting(flag: str, metavar: str, *names: str) -> Any:
    """Declare the option of a setting: its sentence is the setting's own, unless _ABOUT has one."""
    setting = knobs_of(Config)[flat_names()[flag]]
    declared = setting.declared
    about = _ABOUT.get(flag, declared.doc)
    about += f" One of {', '.join(declared.choices)}." if declared.choices else ""
    about += " May be given several times." if isinstance(setting.default, tuple) else ""
    return typer.Option(
        f"--{flag.replace('_', '-')}", *names, metavar=metavar, help=about, show_default=False
    )


Bootstrap = Annotated[list[str] | None, _setting("bootstrap", "HOST:PORT")]
Discover = Annotated[bool | None, _setting("discover", "")]
Listen = Annotated[str | None, _setting("listen", "[HOST:]PORT")]
Advertise = Annotated[list[str] | None, _setting("advertise", "HOST:PORT")]
Name = Annotated[str | None, _setting("name", "NAME")]
Label = Annotated[list[str] | None, _setting("label", "LABEL")]
State = Annotated[str | None, _setting("state", "FOLDER")]
SwarmKeyFile = Annotated[str | None, _setting("swarm_key_file", "FILE")]
Allow = Annotated[list[str] | None, _setting("allow", "NODE")]
Ban = Annotated[list[str] | None, _setting("ban", "NODE")]
LogLevel = Annotated[str | None, _setting("log_level", "LEVEL")]
LogFormat = Annotated[str | None, _setting("log_format", "FORMAT")]
Model = Annotated[list[str] | None, _setting("model", "ID_OR_FOLDER")]
Serve = Annotated[list[str] | None, _setting("serve", "ID")]
Layers = Annotated[str | None, _setting("layers", "A:B")]
Dtype = Annotated[str | None, _setting("dtype", "DTYPE")]
Quantize = Annotated[str | None, _setting("quantize", "BITS")]
Device = Annotated[str | None, _setting("device", "DEVICE")]
PrivateLayers = Annotated[str | None, _setting("private_layers", "K[:M]")]
Api = Annotated[str | None, _setting("api", "[HOST:]PORT", "--openai-port")]
ApiKey = Annotated[list[str] | None, _setting("api_key", "KEY")]
ApiKeyFile = Annotated[str | None, _setting("api_key_file", "FILE")]
ApiOpen = Annotated[bool | None, _setting("api_open", "")]
Memory = Annotated[str | None, _setting("memory", "SIZE")]
Threads = Annotated[int | None, _setting("threads", "N")]
ShareWeights = Annotated[
    bool | None,
    typer.Option(
        "--share-weights/--no-share-weights",
        help=knobs_of(Config)[flat_names()["share_weights"]].declared.doc,
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file with settings; flags win over it.")
]
Invite = Annotated[
    str | None,
    typer.Argument(
        metavar="[INVITE]",
        help="What `swarm invite` printed on a member, or - to read it from standard input, where other users of "
        "this machine can't see it; SWARM_INVITE does too.",
        show_default=False,
    ),
]
ExitWithStdin = Annotated[
    bool, typer.Option("--exit-with-stdin", hidden=True, help="End when standard input does.")
]


def state_folder(given: str | None) -> Path:
    """Return the folder that ``--state`` names, or the usual one."""
    from swarm.node.keystore import default_state_folder

    return Path(given).expanduser() if given else default_state_folder()


def read_settings(params: Mapping[str, Any]) -> tuple[Config, dict[str, str]]:
    """Return the settings and their origins from the parsed options of ``join``. Raises ConfigError."""
    settings = flat_names()
    given = {
        name: value for name, value in params.items() if name in settings and value not in (None, [], ())
    }
    file: Path | None = params["config"]
    if file is None:
        return load_config(None, os.environ, given)
    try:
        text = file.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read the settings in {file}: {exc}") from None
    return load_config(text, os.environ, given, source=str(file))
