import re
from pathlib import Path

import pytest

from volley.learner.settings import load_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("config", sorted(ROOT.glob("examples/*/config.toml")), ids=str)
def test_every_example_is_a_config_that_loads(config: Path):
    assert load_settings(config, environment={}).run.name == config.parent.name


@pytest.mark.parametrize("document", ["README.md", "docs/configuration.md"])
def test_the_config_in_a_document_loads(document: str, tmp_path: Path):
    (block,) = re.findall(r"```toml\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)
    config = tmp_path / "config.toml"
    config.write_text(block)
    assert load_settings(config, environment={}).reward.functions == ("rewards:right_and_brief",)
