"""The swarm secret is changed while answers run: two accepted, the preferred one switched, the old one dropped."""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

import httpx
import pytest

from tests.support.swarm_process import SwarmProcesses, swarm_of, wait_for
from tests.support.tiny_model import LAYERS, write_tiny_model

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


class Load:
    """Streams one answer after another at a door until told to stop; keeps what came of each."""

    def __init__(self, url: str, model: str) -> None:
        self._url, self._model = url, model
        self._stop = threading.Event()
        self.texts: list[str] = []
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        body = {
            "model": self._model,
            "prompt": "One two three",
            "max_tokens": 60,
            "temperature": 0,
            "ignore_eos": True,
        }
        while not self._stop.is_set():
            answer = httpx.post(f"{self._url}/v1/completions", json=body, timeout=120)
            if answer.status_code == 200:
                self.texts.append(answer.json()["choices"][0]["text"])
            else:
                self.problems.append(answer.text)


def rotate(swarm: SwarmProcesses, keys: str, load: Load) -> None:
    """Restart every holder with ``keys``, one after the other, each when the one before serves and answers ran."""
    door = swarm.nodes[0]
    for node in swarm.nodes[1:]:
        node.environment["SWARM_KEY"] = keys
        node.stop()
        node.start()
        wait_for("the restarted node to hold its layers", lambda: swarm.holders(door, f"0:{LAYERS}") == 2)
        before = len(load.texts)
        wait_for("an answer", lambda before=before: len(load.texts) > before or load.problems)


def test_the_secret_is_rotated_in_three_phases_and_no_answer_suffers(tmp_path: Path):
    model = write_tiny_model(tmp_path / "model")
    old, new = secrets.token_hex(32), secrets.token_hex(32)
    with swarm_of(
        ["none", f"0:{LAYERS}", f"0:{LAYERS}"], doors=[True, False, False], model=model, key=old
    ) as swarm:
        door = swarm.nodes[0]
        wait_for("both holders", lambda: swarm.holders(door, f"0:{LAYERS}") == 2)
        name = door.get("/v1/models")[1]["data"][0]["id"]
        texts: list[str] = []
        for keys in (f"{old}\n{new}", f"{new}\n{old}", new):
            load = Load(door.url, name)
            try:
                rotate(swarm, keys, load)
            finally:
                load.stop()
            assert not load.problems
            texts += load.texts
            # A door's own answers end with it: it is restarted between them.
            door.environment["SWARM_KEY"] = keys
            door.stop()
            door.start()
            wait_for("the door to serve again", door.servable)
            wait_for("both holders", lambda: swarm.holders(door, f"0:{LAYERS}") == 2)
        assert len(set(texts)) == 1
        stranger = swarm.add("none", api=True)
        assert stranger.environment["SWARM_KEY"] == old
        wait_for("the old secret to be refused", lambda: "wrong swarm secret" in stranger.log)
