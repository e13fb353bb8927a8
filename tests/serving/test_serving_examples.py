"""examples/serving: the dashboard asks for figures that there are."""

import json
import re
from pathlib import Path

from serving_server import running

DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "serving" / "grafana-dashboard.json"


def test_the_dashboard_asks_for_figures_that_the_server_has() -> None:
    asked = set(re.findall(r"cifar_trainer_\w+", json.dumps(json.loads(DASHBOARD.read_text())["panels"])))
    with running() as server:
        described = {
            sample.name for family in server.service.metrics.registry.collect() for sample in family.samples
        } | {
            f"{family.name}{ending}"
            for family in server.service.metrics.registry.collect()
            for ending in ("", "_total", "_bucket", "_sum", "_count")
        }
    assert asked <= described
