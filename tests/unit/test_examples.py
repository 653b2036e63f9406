from pathlib import Path

import pytest

from volley.learner.settings import load_settings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("config", sorted(ROOT.glob("examples/*/config.toml")), ids=str)
def test_every_example_is_a_config_that_loads(config: Path):
    assert load_settings(config, environment={}).run.name == config.parent.name


def test_the_config_in_the_readme_loads(tmp_path: Path):
    blocks = (ROOT / "README.md").read_text().split("```toml\n")[1:]
    config = tmp_path / "config.toml"
    for block in blocks:
        config.write_text(block.partition("```")[0])
        assert load_settings(config, environment={}).sampling.num_generations == 8
    assert len(blocks) == 1
