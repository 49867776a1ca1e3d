"""What `swarm config` prints: complete, true, without secrets."""

from __future__ import annotations

from swarm.config import load_config
from swarm.config.reference import effective


def test_what_is_printed_reads_back_as_the_same_settings() -> None:
    toml = """
        name = 'a "quoted" \\ name'
        bootstrap = ["a:1", "[::1]:2"]
        model = "org/name"
        layers = "3:9"
        job_port = 8000
        [engine]
        kv_bytes = "3MiB"
        [net]
        dial_seconds = 0.125
    """
    config, origins = load_config(toml, {}, {"threads": 3})
    assert load_config(effective(config, origins), {}, {})[0] == config


def test_each_value_stands_beside_its_origin() -> None:
    config, origins = load_config('name = "x"', {}, {"threads": 3}, source="mine.toml")
    lines = effective(config, origins).splitlines()
    assert 'name = "x"  # mine.toml' in lines
    assert "threads = 3  # --threads" in lines
    assert 'dtype = "auto"  # default' in lines


def test_secrets_are_counted_and_not_shown() -> None:
    config, origins = load_config(None, {"SWARM_API_KEYS": "hunter2,hunter3"}, {})
    text = effective(config, origins)
    assert "hunter" not in text
    assert "# keys: 2 set, not shown  # SWARM_API_KEYS" in text
