"""examples/serving: the dashboard, the compose file and the systemd unit fit the server."""

import json
import re
from pathlib import Path

import pytest
from serving_server import running

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "serving"


def expressions() -> list[str]:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_asks_for_metrics_that_the_server_has() -> None:
    asked = {name for text in expressions() for name in re.findall(r"cifar_trainer_\w+", text)}
    with running() as server:
        families = list(server.service.metrics.registry.collect())
    endings = ("", "_total", "_bucket", "_sum", "_count")
    assert asked <= {f"{family.name}{ending}" for family in families for ending in endings}


def test_both_sides_of_a_division_in_the_dashboard_have_the_same_labels() -> None:
    # Prometheus divides only series with equal labels: a rate by instance has none in common with a sum.
    divisions = [text.split(" / ") for text in expressions() if " / " in text]
    assert divisions
    for sides in divisions:
        assert all(side.startswith("sum(") for side in sides)


def test_the_compose_file_builds_from_the_clone_and_installs_nothing_by_name() -> None:
    yaml = pytest.importorskip("yaml")
    text = (FOLDER / "compose.yaml").read_text()
    serve = yaml.safe_load(text)["services"]["serve"]
    assert "pip install" not in text
    assert (FOLDER / serve["build"]["context"] / "Dockerfile").resolve().is_file()
    assert serve["build"]["target"] in re.findall(
        r"^FROM .* AS (\w+)$", (FOLDER / "../../Dockerfile").read_text(), re.M
    )


@pytest.mark.parametrize("file", ["compose.yaml", "cifar-trainer-serve.service"])
def test_the_options_in_the_examples_exist(file: str) -> None:
    from cifar_trainer.cli.serve import command

    known = {option for parameter in command.params for option in parameter.opts}
    used = re.findall(r"(?<![\w-])--[a-z-]+", (FOLDER / file).read_text().partition("serve")[2])
    assert used
    assert set(used) - {"--now"} <= known
