"""``swarm chat``: a conversation in the terminal with any model of a swarm, or one answer for a pipe."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from swarm.cli.console import announce, coloured, printable, waiting
from swarm.cli.door import Api, ApiKeyFile, Door, ModelComingError
from swarm.errors import SwarmError

DIM, PLAIN = "\x1b[2m", "\x1b[0m"
FETCH_SECONDS = 1.0
HELP = """\
/new           forget the conversation
/system TEXT   set the system prompt (nothing: none)
/model NAME    use another model (nothing: list them)
/route         show or hide the route under each answer
/quit          end, as Ctrl-D does; Ctrl-C stops an answer
A line that ends in a backslash goes on in the next one."""


def chat(
    prompt: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROMPT]...", help="Ask this and end; without it, a conversation begins."),
    ] = None,
    api: Api = "",
    api_key_file: ApiKeyFile = None,
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="Default: the first that can be served.")
    ] = "",
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="A system prompt.")] = "",
    temperature: Annotated[
        float | None, typer.Option("--temperature", metavar="T", help="0: always the likeliest token.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N")] = 1000,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N")] = None,
) -> None:
    """Chat with the swarm. With PROMPT, or standard input that is no terminal, one answer is printed.

    Both are asked together.

    Examples: `swarm chat`, `swarm chat "Why is the sky blue?"`, `git diff | swarm chat "Review this:"`
    """
    door = Door(api, api_key_file)
    options = {"temperature": temperature, "max_completion_tokens": max_tokens, "seed": seed}
    talk = Talk(
        door, model or _first_model(door), system, {k: v for k, v in options.items() if v is not None}
    )
    given = " ".join(prompt or ())
    if not sys.stdin.isatty():
        piped = sys.stdin.read().strip()
        given = "\n\n".join(part for part in ("" if given == "-" else given, piped) if part)
        if not given:
            raise SwarmError("there is nothing to ask: give a PROMPT, or text on standard input")
    if given:
        if not talk.ask(given):
            raise KeyboardInterrupt  # half an answer is no success to whoever reads the exit code
        return
    announce(f"{talk.model} at {door.url}. /help shows what else can be typed.")
    _converse(talk)


@dataclass
class Talk:
    """One conversation. Text goes to standard output, all else to standard error."""

    door: Door
    model: str
    system: str
    options: dict[str, Any]
    show_route: bool = True
    messages: list[dict[str, str]] = field(default_factory=list)

    def ask(self, text: str) -> bool:
        """Print the answer as it streams; return whether it is whole. Ctrl-C stops it; what was said counts."""
        self.messages.append({"role": "user", "content": text})
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": [*system, *self.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "swarm": {"route": True},
            **self.options,
        }
        shown = _Shown()
        try:
            while not self._answered(body, shown):
                time.sleep(FETCH_SECONDS)
        except KeyboardInterrupt:
            shown.note = "stopped"
        finally:
            if shown.text:
                self.messages.append({"role": "assistant", "content": shown.text})
            else:
                self.messages.pop()
            shown.end(with_route=self.show_route)
        return not shown.note

    def _answered(self, body: dict[str, Any], shown: _Shown) -> bool:
        """Show what is answered; return False when the door has yet to fetch the model."""
        try:
            with self.door.stream("/v1/chat/completions", body) as events:
                for event in events:
                    shown.take(event)
        except ModelComingError:
            shown.wait(f"{self.model} is being fetched for this front door …")
            return False
        return True


class _Shown:
    """An answer on the terminal: reasoning dimmed, control characters escaped."""

    def __init__(self) -> None:
        self.text = ""
        self.note = ""
        self._usage: dict[str, Any] = {}
        self._begun = time.monotonic()
        self._first = self._last = 0.0
        self._reasoning = False
        self._terminal = sys.stdout.isatty()
        self._dim, self._plain = (DIM, PLAIN) if coloured(sys.stdout) else ("", "")
        self._waiting = waiting("…")
        self._waiting.start()
        self._waits_for = ""

    def wait(self, reason: str) -> None:
        """Say what is waited for, once."""
        if reason != self._waits_for:
            self._waits_for = reason
            self._waiting.update(reason)

    def take(self, event: dict[str, Any]) -> None:
        self._usage = event.get("usage") or self._usage
        for choice in event.get("choices", ()):
            delta = choice["delta"]
            said, thought = delta.get("content") or "", delta.get("reasoning_content") or ""
            if said or thought:
                self._last = time.monotonic()
                self._first = self._first or self._last
            if thought and self._terminal:
                self._write(("" if self._reasoning else self._dim) + _lines(thought))
                self._reasoning = True
            if said:
                self.text += said  # before it is seen: Ctrl-C may come at once
                self._write((f"{self._plain}\n" if self._reasoning else "") + _lines(said))
                self._reasoning = False

    def end(self, *, with_route: bool) -> None:
        self._waiting.stop()
        if self._first or self._usage or self.note:
            self._write((self._plain if self._reasoning else "") + "\n")
        if not (with_route and sys.stderr.isatty() and (self._usage or self.note)):
            return
        tokens = self._usage.get("completion_tokens", 0)
        facts = [f"{tokens} tokens"] if tokens else []
        if self._first:
            facts.append(f"first after {self._first - self._begun:.2f} s")
        if tokens > 1 and self._last > self._first:
            facts.append(f"{(tokens - 1) / (self._last - self._first):.1f} tokens/s")
        route = self._usage.get("swarm", {}).get("route", ())
        hops = " -> ".join(f"{hop['name']} {hop['layers']} {hop['compute_ms']:.0f} ms" for hop in route)
        facts += [fact for fact in (hops, self.note) if fact]
        line = f"[{printable(' | '.join(facts))}]"
        print(f"{DIM}{line}{PLAIN}" if coloured(sys.stderr) else line, file=sys.stderr, flush=True)

    def _write(self, text: str) -> None:
        self._waiting.stop()
        sys.stdout.write(text)
        sys.stdout.flush()


def _lines(text: str) -> str:
    """Escape what would steer the terminal, but keep lines and tabs."""
    return "".join(letter if letter in "\n\t" else printable(letter) for letter in text)


def _converse(talk: Talk) -> None:
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines and remembers them once this is imported
    while True:
        try:
            text = _typed()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            continue
        if text.startswith("/"):
            if _command(talk, text):
                return
        elif text:
            try:
                talk.ask(text)
            except SwarmError as exc:
                print(f"swarm: {exc}", file=sys.stderr)


def _typed() -> str:
    lines = [input("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(input(". "))
    return "\n".join(lines).strip()


def _command(talk: Talk, text: str) -> bool:
    """Do what a line with a slash asks; return whether to end."""
    name, _, rest = text.partition(" ")
    match name:
        case "/quit" | "/exit":
            return True
        case "/new":
            talk.messages.clear()
            announce("A new conversation.")
        case "/system":
            talk.system = rest.strip()
            announce("The system prompt is set." if talk.system else "No system prompt.")
        case "/route":
            talk.show_route = not talk.show_route
            announce("The route is shown." if talk.show_route else "The route is hidden.")
        case "/model":
            try:
                _choose(talk, rest.strip())
            except SwarmError as exc:
                print(f"swarm: {exc}", file=sys.stderr)
        case "/help":
            announce(HELP)
        case _:
            announce(f"{name} is no command; /help lists them.")
    return False


def _choose(talk: Talk, name: str) -> None:
    """Go on with another model, or list those there are."""
    served = [str(model["id"]) for model in talk.door.get("/v1/models")["data"]]
    if not name:
        announce("\n".join(f"{'*' if model == talk.model else ' '} {model}" for model in served))
    elif name in served or name.partition("@")[0] in served:
        talk.model = name
        announce(f"From now on: {name}")
    else:
        announce(f"{name} is not served; /model lists what is. Still: {talk.model}")


def _first_model(door: Door) -> str:
    models = door.get("/swarm/state")["models"]
    servable = [str(model["name"]) for model in models if model["servable"]]
    if servable:
        return servable[0]
    if not models:
        raise SwarmError("the swarm serves no model yet; start a node with --model ID_OR_FOLDER")
    lacks = "; ".join(
        f"{model['name']}: {model['problem'] or 'no node holds layers ' + ', '.join(model['missing'])}"
        for model in models
    )
    raise SwarmError(f"no model can be served now: {lacks}. `swarm doctor` says what would help")
