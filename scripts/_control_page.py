"""docs/control.md, written from the requests that a node's control socket answers."""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Iterator
from typing import Any

import msgspec

from swarm.node import control

_TYPES = {
    str: "string",
    bool: "boolean",
    float: "number",
    tuple[str, ...]: "array of strings",
    tuple[str, ...] | None: "array of strings, or null",
}
_HEAD = f"""\
# Control socket

Generated from `swarm/node/control.py` by `scripts/make_docs`; a test keeps it true. Through this socket the commands
of this machine (`invite`, `layers`, `door` and others) reach the node that runs on it. It is no part of the HTTP API:
who may open it may control the node.

It is `{control.SOCKET_FILE}` in the state folder, with mode 0600; where that path is too long for a socket, one under
the folder for temporary files; on Windows a named pipe that only its owner may write to. One JSON object in one line
asks, one line answers `{{"ok": …}}` or `{{"error": "…", "kind": "…"}}`: what the node says, and which of its errors
that is. A connection may ask several times, one after the other. A line has
{control.MAX_LINE_BYTES >> 20} MiB at most. Unknown requests and fields are errors.

```json
{{"do": "invite", "minutes": 60}}
```
"""


def page() -> str:
    """Return docs/control.md."""
    sections = ["\n".join(_section(request)) for request in typing.get_args(control.AnyRequest)]
    return "\n".join([_HEAD, *sections]).rstrip("\n") + "\n"


def _section(request: type[msgspec.Struct]) -> Iterator[str]:
    yield f"## {request.__struct_config__.tag}\n"
    yield _prose(request.__doc__ or "") + "\n"
    fields = msgspec.structs.fields(request)
    if fields:
        said = _said_of_fields(request)
        yield "| field | type | default | meaning |"
        yield "|---|---|---|---|"
        for field in fields:
            default = "" if field.required else f"`{_json(field.default)}`"
            about = said.get(field.name, "")
            yield f"| `{field.encode_name}` | {_TYPES[field.type]} | {default} | {about} |"
        yield ""


def _said_of_fields(request: type) -> dict[str, str]:
    """Return what stands below each field in the source: nothing keeps it while running."""
    (body,) = ast.parse(inspect.getsource(request)).body
    assert isinstance(body, ast.ClassDef)
    said = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
        ):
            said[field.target.id] = _prose(ast.literal_eval(below.value))
    return said


def _prose(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
