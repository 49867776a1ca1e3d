"""docs/metrics.md, written from the metrics themselves."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.api import metrics
from swarm.node import meters
from swarm.node.meters import Spec

_HEAD = """\
# Metrics

`GET /metrics` of a front door, in Prometheus' text format; with API keys it needs one. Generated from
the metrics by `scripts/make_docs`; a test keeps it true.

Metrics of a generating server that OpenTelemetry's
[conventions for generative AI](https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/) name have that name
(`.` as `_`, the unit behind it), those labels and those buckets: `gen_ai_operation_name` is `chat` (chat and responses)
or `text_completion`, `gen_ai_provider_name` is `swarm`, `error_type` a status or an error's code, empty for none. A
histogram `X` is read as `X_bucket`, `X_sum` and `X_count`. `node` is the beginning of a node's id. No label holds
anything of a user.

`deploy/grafana/swarm.json` is a dashboard over these (Grafana: Dashboards, New, Import). For Prometheus:

```yaml
scrape_configs:
  - job_name: swarm
    static_configs:
      - targets: ["192.168.1.20:8000"]
    authorization:
      credentials_file: /etc/prometheus/swarm.key   # where the door has keys
```
"""
_TAIL = """
Besides, on Linux, `process_*` of the Prometheus client: memory, CPU seconds, open files and start time.
"""


def page() -> str:
    """Return docs/metrics.md."""
    return "\n".join(
        [
            _HEAD,
            *_table("The front door", metrics.SPECS),
            "",
            *_table("The node", meters.SPECS),
            _TAIL,
        ]
    )


def _table(title: str, specs: Iterable[Spec]) -> list[str]:
    rows = [f"## {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for spec in specs:
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rows.append(f"| `{spec.read_as}` | {spec.kind} | {labels} | {spec.about} |")
    return rows
