"""The layers of models as lines of characters: how often each is held, holes, and who holds what. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from swarm.cli.top.view import Cell, Line, State, Tone, cell
from swarm.types import LayerSpan

NAME_CELLS = 12
HOLE, FULL, COMING = "×", "█", "░"


def pictures(state: State, width: int) -> list[Line]:
    """Each model's layers as a line: how many nodes hold each, holes, and who holds what."""
    lines: list[Line] = []
    for model in state["models"]:
        lines += [*_picture(state, model, max(width - NAME_CELLS - 10, 10)), ()]
    return lines or [(cell("The swarm serves no model yet. Press l to hold layers of one here.", "dim"),)]


def _picture(state: State, model: Mapping[str, Any], width: int) -> list[Line]:
    layers = model["layers"]
    holders = [
        (member, [LayerSpan.parse(s["layers"]) for s in member["spans"] if s["digest"] == model["digest"]])
        for member in state["members"]
    ]
    counted = [span for member, spans in holders if member["routable"] for span in spans]
    name = model["name"]
    verdict = "can be served" if model["servable"] else f"can't be served: {_problem(model)}"
    lines: list[Line] = [
        (cell(name, "strong"), cell(f"  {layers} layers  "), _verdict(verdict, model["servable"]))
    ]
    lines.append((_label("replicas"), *layer_line(layers, counted, width), cell(f" {layers - 1}", "dim")))
    for member, spans in sorted(holders, key=lambda one: (one[1], one[0]["name"])):
        own = member["node"] == state["node"]
        label = member["name"] + ("*" if own else "")
        if spans:
            tone: Tone = ("own" if own else "") if member["routable"] else "dim"
            lines.append((_label(label), *_bar(layers, spans, width, FULL, tone), cell(_spans(spans), "dim")))
        intended = [one for one in member.get("intended", ()) if one["model"] == name.partition("@")[0]]
        coming = [LayerSpan.parse(one["layers"]) for one in intended]
        if coming:
            lines.append(
                (_label(label), *_bar(layers, coming, width, COMING, "busy"), cell(" coming", "busy"))
            )
    return lines


def _problem(model: Mapping[str, Any]) -> str:
    return str(model["problem"] or f"nobody holds {', '.join(model['missing'])}")


def _verdict(text: str, servable: bool) -> Cell:
    return cell(text, "good" if servable else "bad")


def _label(text: str) -> Cell:
    shown = text if len(text) < NAME_CELLS else text[: NAME_CELLS - 2] + "…"
    return cell(f"{shown:<{NAME_CELLS}}", "dim")


def _spans(spans: Iterable[LayerSpan]) -> str:
    return f" {', '.join(map(str, spans))}"


def layer_line(layers: int, spans: Sequence[LayerSpan], width: int) -> Line:
    """Return the layers as up to ``width`` characters: how often each is held, or a cross where nobody holds it.

    Where several layers share a character it shows the one that is held least: no hole is hidden.
    """
    held = [sum(layer in span for span in spans) for layer in range(layers)]
    shown = [min(held[first:end]) for first, end in _columns(layers, width)]
    return _runs(
        [(HOLE if count == 0 else str(min(count, 9)), "hole" if count == 0 else "good") for count in shown]
    )


def _bar(layers: int, spans: Sequence[LayerSpan], width: int, mark: str, tone: Tone) -> Line:
    """Return where some spans lie; a character shows a span that has one of its layers."""
    marks: list[tuple[str, Tone]] = [
        (mark if any(span.start < end and first < span.end for span in spans) else " ", tone)
        for first, end in _columns(layers, width)
    ]
    return _runs(marks)


def _columns(layers: int, width: int) -> list[tuple[int, int]]:
    """Return which layers each character of a line stands for, first to before the last."""
    if layers <= width:
        each = width // layers
        return [(layer, layer + 1) for layer in range(layers) for _ in range(each)]
    return [
        (at * layers // width, max((at + 1) * layers // width, at * layers // width + 1))
        for at in range(width)
    ]


def _runs(marks: Iterable[tuple[str, Tone]]) -> Line:
    """Join neighbours of one tone."""
    joined: list[Cell] = []
    for mark, tone in marks:
        if joined and joined[-1].tone == tone:
            joined[-1] = Cell(joined[-1].text + mark, tone)
        else:
            joined.append(Cell(mark, tone))
    return tuple(joined)
