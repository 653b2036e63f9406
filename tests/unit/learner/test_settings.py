from pathlib import Path

import pytest

from volley.learner.settings import SettingsError, load_settings

MINIMAL = """
[model]
path = "some/model"
[data]
train = "train.jsonl"
"""


def write(folder: Path, text: str = MINIMAL) -> Path:
    config = folder / "config.toml"
    config.write_text(text)
    return config


def complaint(folder: Path, text: str = MINIMAL, overrides=(), environment=None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(write(folder, text), overrides, environment or {})
    return caught.value.message


def test_a_model_and_data_are_enough(tmp_path):
    settings = load_settings(write(tmp_path), environment={})
    assert settings.model.path == "some/model"
    assert settings.data.train == tmp_path / "train.jsonl"
    assert settings.sampling.num_generations == 8


def test_a_model_folder_beside_the_config_is_found_there(tmp_path):
    (tmp_path / "tiny").mkdir()
    text = MINIMAL.replace("some/model", "tiny")
    assert load_settings(write(tmp_path, text), environment={}).model.path == str(tmp_path / "tiny")


def test_flags_beat_the_environment_which_beats_the_file(tmp_path):
    config = write(tmp_path, MINIMAL + "[run]\nsteps = 1\nseed = 1\nname = 'file'\n")
    environment = {"VOLLEY_RUN__STEPS": "2", "VOLLEY_RUN__SEED": "2", "VOLLEY_TOKEN": "x"}
    run = load_settings(config, ["run.steps=3"], environment).run
    assert (run.steps, run.seed, run.name) == (3, 2, "file")


def test_an_override_may_be_a_list_or_plain_text(tmp_path):
    settings = load_settings(
        write(tmp_path), ['devices.rollout=["cpu", "cpu"]', "loss.loss_type=grpo"], {}
    )
    assert settings.devices.rollout == ("cpu", "cpu")
    assert settings.loss.loss_type == "grpo"


def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path):
    said = complaint(tmp_path, MINIMAL + "[optim]\nlearning_rat = 1e-5\n")
    assert "optim.learning_rat" in said
    assert "did you mean learning_rate?" in said


def test_an_unknown_section_is_named_with_the_nearest_one(tmp_path):
    assert "did you mean optim?" in complaint(tmp_path, MINIMAL + "[optin]\nx = 1\n")


def test_an_unknown_variable_is_named_with_the_nearest_setting(tmp_path):
    said = complaint(tmp_path, environment={"VOLLEY_OPTIM__LEARNING_RAT": "1e-5"})
    assert "VOLLEY_OPTIM__LEARNING_RAT: " in said
    assert "did you mean VOLLEY_OPTIM__LEARNING_RATE?" in said


@pytest.mark.parametrize("override", ["steps=3", "run.stepz=3", "run.steps", "nothing.here=1"])
def test_an_override_that_names_no_setting_is_refused(tmp_path, override):
    assert "--set" in complaint(tmp_path, overrides=[override])


def test_a_missing_section_is_named(tmp_path):
    assert "data: is needed" in complaint(tmp_path, '[model]\npath = "x"\n')


def test_broken_toml_and_a_missing_file_are_said(tmp_path):
    assert "not TOML" in complaint(tmp_path, "[model\n")
    with pytest.raises(SettingsError, match="give the path of a TOML file"):
        load_settings(tmp_path / "absent.toml", environment={})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[sampling]\nnum_generations = 1\n", "at least 2"),
        ("[sampling]\ntop_p = 0.9\n", "remove top_p"),
        ("[sampling]\ntop_k = 50\n", "remove top_k"),
        ("[reward]\nfunctions = ['a:b']\nweights = [1.0, 2.0]\n", "2 weights for 1 functions"),
        ("[reward]\nfunctions = []\n", "at least one reward function"),
        ("[reward]\non_failure = 'zero'\n", "reward.on_failure"),
        ("[reward]\non_failure = nan\n", "reward.on_failure"),
        ("[reward]\nmax_memory_bytes = 1000\n", "reward.max_memory_bytes"),
        ("[optim]\nlearning_rate = 0\n", "optim.learning_rate"),
        (
            "[loss]\nbeta = 0.1\nkl_target = 'reference'\nkl_estimator = 'k1'\n"
            "use_bias_correction_kl = false\n",
            "no gradient",
        ),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_fix(tmp_path, text, words):
    assert words in complaint(tmp_path, MINIMAL + text)


def test_a_template_lies_beside_the_config_and_is_told_more_on_the_command_line(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text(
        "[model]\npath = 'org/model'\nchat_template = 'own.jinja'\n[data]\ntrain = 'train.jsonl'\n"
    )
    override = "model.chat_template_kwargs={enable_thinking = false}"
    model = load_settings(config, [override], environment={}).model
    assert model.chat_template == tmp_path / "own.jinja"
    assert model.chat_template_kwargs == {"enable_thinking": False}
    assert model.path == "org/model"
