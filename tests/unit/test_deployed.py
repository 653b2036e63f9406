"""What deploy/ gives to Prometheus and Grafana: each rule by promtool's own tests."""

import itertools
import json
import shutil
import subprocess

from tests.prometheus import DEPLOYED, find_program

DASHBOARDS = DEPLOYED.parent / "grafana" / "dashboards"


def promtool(*arguments: str) -> None:
    """Fails the test with what promtool says."""
    done = subprocess.run([find_program("promtool"), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_are_raised_when_they_should_be_and_not_else():
    promtool("test", "rules", str(DEPLOYED / "alerts_test.yml"))


def test_prometheus_takes_its_configuration(tmp_path):
    shutil.copytree(DEPLOYED, tmp_path, dirs_exist_ok=True)
    (tmp_path / "token").write_text("a-token")
    path = tmp_path / "prometheus.yml"
    path.write_text(path.read_text().replace("/secrets/token", str(tmp_path / "token")))
    promtool("check", "config", str(path))


def test_no_two_panels_of_the_dashboard_lie_over_each_other():
    panels = json.loads((DASHBOARDS / "volley.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [
        (x, y)
        for place in places
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
