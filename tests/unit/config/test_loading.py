"""Settings from TOML, environment and flags: precedence, names, and errors that name key and remedy."""

from __future__ import annotations

import hashlib

import pytest

from swarm.config import ApiKey, Config, ModelChoice, load_config
from swarm.errors import ConfigError
from swarm.types import Address, LayerSpan


def test_nothing_given_is_all_defaults() -> None:
    config, origins = load_config(None, {}, {})
    assert config == Config()
    assert set(origins.values()) == {"default"}


def test_flags_win_over_the_file_and_the_file_over_the_environment() -> None:
    toml = 'name = "from-file"\nlisten = "10.0.0.1:7001"\napi_keys = ["file-key"]'
    config, origins = load_config(toml, {"SWARM_API_KEYS": "env-key"}, {"name": "from-flag"}, source="s.toml")
    assert (config.node.name, origins["node.name"]) == ("from-flag", "--name")
    assert (config.node.listen, origins["node.listen"]) == (Address("10.0.0.1", 7001), "s.toml")
    assert (config.api.keys, origins["api.keys"]) == (("file-key",), "s.toml")


def test_api_keys_come_from_the_environment_comma_separated() -> None:
    config, origins = load_config("", {"SWARM_API_KEYS": " one, two,,"}, {})
    assert config.api.keys == ("one", "two")
    assert origins["api.keys"] == "SWARM_API_KEYS"


def test_tables_and_names_outside_tables_say_the_same() -> None:
    flat = 'model = "org/name"\nlayers = "0:15"\napi = 8000\nthreads = 2\nbootstrap = ["a:1", "[::1]:2"]'
    tables = """
        [node]
        bootstrap = ["a:1", "[::1]:2"]
        [model]
        model = "org/name"
        layers = "0:15"
        [api]
        listen = "127.0.0.1:8000"
        [engine]
        threads = 2
    """
    assert load_config(flat, {}, {})[0] == load_config(tables, {}, {})[0]
    assert load_config(flat, {}, {})[0].model.layers == LayerSpan(0, 15)


@pytest.mark.parametrize("name", ["job_port", "oai_port", "openai_port", "api"])
def test_the_specifications_names_for_the_api_port_are_accepted(name: str) -> None:
    config, _ = load_config(f"{name} = 8000", {}, {})
    assert config.api.listen == Address("127.0.0.1", 8000)


@pytest.mark.parametrize(
    ("toml", "field", "expected"),
    [
        ('[net]\ndial_seconds = "500ms"', "net.dial_seconds", 0.5),
        ('[net]\ndial_seconds = "2m"', "net.dial_seconds", 120.0),
        ("[net]\ndial_seconds = 3", "net.dial_seconds", 3.0),
        ('[engine]\nkv_bytes = "2GiB"', "engine.kv_bytes", 2 * 1024**3),
        ('[engine]\nkv_bytes = "1.5 kB"', "engine.kv_bytes", 1500),
        ('listen = "0"', "node.listen", Address("0.0.0.0", 0)),
        ('layers = "none"', "model.layers", "none"),
        ('log_level = "DEBUG"', "node.log_level", "debug"),
        ('bootstrap = "a:1,b:2"', "node.bootstrap", (Address("a", 1), Address("b", 2))),
        ('[api]\nlisten = "none"', "api.listen", None),
    ],
)
def test_values_are_read_as_people_write_them(toml: str, field: str, expected: object) -> None:
    section, _, name = field.partition(".")
    assert getattr(getattr(load_config(toml, {}, {})[0], section), name) == expected


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("lisen = 1", ["'lisen'", "'listen'"]),
        ("kv_byte = 1", ["'kv_byte'", "'engine.kv_bytes'"]),
        ("[node]\nlisten_port = 1", ["'listen_port'", "[node]", "'listen'"]),
        ("[nod]\nname = 'x'", ["[nod]", "'node'"]),
        ("[node]\nlisten = [1]", ["node.listen", "HOST:PORT", "a list"]),
        ("bootstrap = 'nowhere'", ["bootstrap", "'nowhere'", "HOST:PORT"]),
        ("layers = '15'", ["layers", "A:B"]),
        ("layers = 15", ["layers", "A:B", "a number"]),
        ("dtype = 'fp8'", ["dtype", "'fp8'", "bfloat16"]),
        ("device = 'tpu'", ["device", "'tpu'", "cuda:N"]),
        ("private_layers = 'two'", ["private_layers", "K:M"]),
        ("threads = true", ["threads", "a whole number"]),
        ("threads = -1", ["threads", "zero or more"]),
        ("[api]\nopen = 'perhaps'", ["api.open", "true or false"]),
        ("[net]\ndial_seconds = '5 parsecs'", ["net.dial_seconds", "'5 parsecs'", "10m"]),
        ("[net]\ndial_seconds = nan", ["net.dial_seconds", "zero or more"]),
        ("[engine]\nkv_bytes = 'lots'", ["engine.kv_bytes", "2GiB"]),
        ("[engine]\nmax_origin_kv_share = 2", ["max_origin_kv_share", "between 0 and 1"]),
        ("ban = ['me']", ["ban", "'me'", "32"]),
        ("label = ['my home']", ["label", "'my home'", "letters"]),
        (f"label = {[f'l{at}' for at in range(17)]}", ["label", "17", "16"]),
        ("gossip = 1", ["gossip", "[gossip]"]),
        ("name = ", ["swarm.toml", "not TOML"]),
        ("job_port = 1\napi = 2", ["job_port", "api", "the same"]),
    ],
)
def test_an_error_names_the_key_and_what_is_expected(toml: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(toml, {}, {})
    assert [word for word in words if word not in str(caught.value)] == []


def test_an_error_of_a_flag_names_the_flag() -> None:
    with pytest.raises(ConfigError, match=r"--private-layers: 'x'"):
        load_config(None, {}, {"private_layers": "x"})


def test_a_wrong_api_key_is_not_quoted() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("api_keys = ['hunter2', 31337]", {}, {})
    assert "api_keys" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "31337" not in str(caught.value)


def test_keys_may_be_tables_with_limits_and_are_kept_as_digests() -> None:
    digest = hashlib.sha256(b"bens-key").hexdigest()
    toml = f"""
        [[api.keys]]
        name = "anna"
        key = "annas-key"
        max_concurrent = 2
        requests_per_minute = 30
        [[api.keys]]
        name = "ben"
        sha256 = "{digest.upper()}"
    """
    config, _ = load_config(toml, {}, {})
    anna, ben = config.api.keys
    assert anna == ApiKey("anna", hashlib.sha256(b"annas-key").digest(), 2, 30)
    assert ben == ApiKey("ben", bytes.fromhex(digest))
    assert "annas-key" not in repr(config)
    assert digest not in repr(config)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('key = "secret-key"', "needs a name"),
        ('name = "a"', "either key or sha256"),
        ('name = "a"\nkey = "secret-key"\nsha256 = "00"', "either key or sha256"),
        ('name = "a"\nsha256 = "secret-key"', "64 hex digits"),
        ('name = "a"\nkey = "secret-key"\nmax_concurrent = 0', "max_concurrent"),
        ('name = "a"\nkey = "secret-key"\nlimit = 1', "unknown field 'limit'"),
        ('name = "a"\nkey = "secret-key"\n[[api.keys]]\nname = "a"\nkey = "secret-key"', "two tables"),
    ],
)
def test_a_wrong_key_table_is_an_error_that_quotes_no_key(table: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        load_config(f"[[api.keys]]\n{table}", {}, {})
    assert "secret-key" not in str(raised.value)


def test_models_are_given_by_a_name_by_several_or_by_tables() -> None:
    def models(text: str) -> tuple[str | ModelChoice, ...]:
        return load_config(text, {}, {})[0].model.model

    assert models('model = "org/a"') == ("org/a",)
    assert models('model = ["org/a", "org/b@01234567"]') == ("org/a", "org/b@01234567")
    tables = '[[models]]\nname = "org/a"\nlayers = "0:4"\n[[models]]\nname = "org/b"\n'
    assert models(tables) == (ModelChoice("org/a", LayerSpan(0, 4)), ModelChoice("org/b"))
    assert load_config(None, {}, {"model": ["org/a", "org/b"]})[0].model.model == ("org/a", "org/b")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[models]]\nlayers = "0:4"', "needs a name"),
        ('[[models]]\nname = "a"\nlayer = "0:4"', "unknown field 'layer'"),
        ('[[models]]\nname = "a"\nlayers = "4"', "not a span"),
        ('[model]\npins = ["org/a@xyz"]', "NAME@DIGEST"),
        ("model = 3", "text"),
    ],
)
def test_a_model_that_is_given_wrongly_is_said_to_be(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        load_config(text, {}, {})
