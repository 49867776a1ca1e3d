"""The rivals of the serving benchmark, with stubs in their place: how they are asked to run, and how they end."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import gguf
import psutil
import pytest

from scripts._peers import PEERS, PeerError, Wanted, running

LAYERS = 30

SERVER = """
import http.server, json, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if sys.argv[1:] == ["--version"]:
    raise SystemExit(print("version: 1 (stub)"))
open("server.json", "w").write(json.dumps(options))
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(open("server.json", "rb").read())
http.server.HTTPServer((options["--host"], int(options["--port"])), Health).serve_forever()
"""
RPC = """
import json, sys, time
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
open("rpc-" + options["--port"], "w").write(json.dumps(options))
time.sleep(600)
"""


def stub(folder: Path, name: str, source: str) -> None:
    """An executable ``name`` in ``folder`` that runs ``source``."""
    program = folder / f"{name}.py"
    program.write_text(source)
    if os.name == "nt":
        (folder / f"{name}.cmd").write_text(f'@"{sys.executable}" "{program}" %*\n')
    else:
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{program}" "$@"\n')
        (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH, but for the system's shell."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A GGUF file that says 30 layers in bfloat16, and holds none."""
    file = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(LAYERS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def wanted(weights: Path | None = None, *, nodes: int = 2, dtype: str = "bfloat16") -> Wanted:
    return Wanted("some/model", nodes, 1, dtype, streams=8, context=512, gguf=weights)


@pytest.mark.parametrize("name", sorted(PEERS))
def test_a_missing_rival_is_named_with_how_to_install_it(name: str, programs: Path) -> None:
    with pytest.raises(PeerError) as refusal:
        PEERS[name].check(wanted())

    assert PEERS[name].install in str(refusal.value)


def test_language_pipes_is_not_compared_in_a_dtype_it_does_not_have(programs: Path) -> None:
    stub(programs, "language-pipes", "")

    with pytest.raises(PeerError, match="bfloat16"):
        PEERS["language-pipes"].check(wanted(dtype="float32"))


@pytest.mark.parametrize("name", ["ggml-rpc-server", "rpc-server"])
def test_llama_cpp_gets_the_later_layers_and_the_head_on_its_rpc_servers(
    name: str, programs: Path, weights: Path
) -> None:
    stub(programs, "llama-server", SERVER)
    stub(programs, name, RPC)

    with running("llama.cpp", wanted(weights, nodes=3)) as peer:
        folder = Path(psutil.Process(peer.pids[0]).cwd())
        options = json.loads((folder / "server.json").read_text())

    assert options["--gpu-layers"] == "21", "two thirds of 30 layers, and the output layer"
    assert len(options["--rpc"].split(",")) == 2
    assert options["--tensor-split"] == "1,1"
    assert (options["--parallel"], options["--ctx-size"]) == ("8", "4096")
    assert (peer.weights, peer.version) == ("BF16", "version: 1 (stub)")


def test_one_node_of_llama_cpp_needs_no_rpc_server(programs: Path, weights: Path) -> None:
    stub(programs, "llama-server", SERVER)

    with running("llama.cpp", wanted(weights, nodes=1)) as peer:
        options = json.loads((Path(psutil.Process(peer.pids[0]).cwd()) / "server.json").read_text())

    assert "--rpc" not in options


def test_the_processes_of_a_rival_end_with_its_run(programs: Path, weights: Path) -> None:
    stub(programs, "llama-server", SERVER)
    stub(programs, "rpc-server", RPC)

    with running("llama.cpp", wanted(weights)) as peer:
        pids = peer.pids

    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_rival_that_ends_at_once_is_told_with_what_it_said(programs: Path, weights: Path) -> None:
    stub(programs, "llama-server", "raise SystemExit('no such option')")

    with (
        pytest.raises(PeerError, match="no such option"),
        running("llama.cpp", wanted(weights, nodes=1)),
    ):
        pass
