"""The log's two formats."""

from __future__ import annotations

import json
import logging
import sys

from swarm.cli.logs import JsonFormatter


def record(message: str, **extra: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": "swarm.x", "levelno": logging.INFO, "levelname": "INFO", "msg": message, **extra}
    )


def test_a_record_is_one_line_of_json_with_time_level_and_logger() -> None:
    line = JsonFormatter().format(record("two\nlines “quoted”", created=0.0))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "1970-01-01T00:00:00.000+00:00",
        "level": "info",
        "logger": "swarm.x",
        "message": "two\nlines “quoted”",
    }


def test_fields_stand_for_the_message() -> None:
    told = json.loads(JsonFormatter().format(record("seconds=1.5", fields={"seconds": 1.5})))
    assert told["seconds"] == 1.5
    assert "message" not in told


def test_an_exception_is_told_in_the_same_line() -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))
    assert "ValueError: bad" in json.loads(line)["exception"]
