import pytest
from pydantic import ValidationError

from volley.learner.loss_settings import LossSettings


def settings(**fields: object) -> LossSettings:
    return LossSettings.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"loss_type": "ppo"}, "is none of dapo, grpo, "),
        (
            {"importance_sampling_mode": "token_truncate"},
            "with ratio_anchor = sampler weighs staleness twice",
        ),
        (
            {"advantage_estimator": "rloo"},
            "rloo with scale_rewards = group is another estimator: set scale_rewards = 'none'",
        ),
        (
            {"advantage_estimator": "reinforce_plus_plus_baseline", "scale_rewards": "none"},
            "set scale_rewards = 'batch'",
        ),
        ({"loss_type": "cispo", "delta": 3.0}, "leave delta out"),
        ({"epsilon_high": 0.5, "delta": 1.4}, "delta = 1.4 is not above 1 + epsilon_high = 1.5"),
        (
            {"loss_type": "gspo", "off_policy_mask": "token"},
            "would change the sequence that the ratio is of",
        ),
        (
            {
                "beta": 0.1,
                "kl_target": "reference",
                "kl_estimator": "k1",
                "use_bias_correction_kl": False,
            },
            "k1 without use_bias_correction_kl has no gradient on-policy",
        ),
        (
            {"beta": 0.1, "kl_target": "reference", "kl_estimator": "k2"},
            "k2 with use_bias_correction_kl has not the gradient of a KL",
        ),
        (
            {"beta": 0.1, "kl_in": "reward"},
            "kl_in = reward with kl_target = sampler is always 0",
        ),
        ({"importance_sampling_clip_max": 0.5}, "greater than or equal to 1"),
        ({"off_policy_mask_low": 1.0}, "less than 1"),
        ({"off_policy_mask_high": 1.0}, "greater than 1"),
    ],
)
def test_what_cannot_be_right_is_refused_with_the_reason(fields, reason):
    with pytest.raises(ValidationError) as caught:
        settings(**fields)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"loss_type": "mine:reinforce"},
        {"loss_type": "gspo", "off_policy_mask": "sequence_any"},
        {"ratio_anchor": "proximal", "importance_sampling_mode": "sequence_truncate"},
        {"advantage_estimator": "rloo", "scale_rewards": "none"},
        {"advantage_estimator": "reinforce_plus_plus_baseline", "scale_rewards": "batch"},
        # A KL that is off has no gradient to be wrong.
        {"kl_target": "reference", "kl_estimator": "k1", "use_bias_correction_kl": False},
        # In the reward k1 is the estimate of choice, and no gradient goes through it.
        {"beta": 0.1, "kl_target": "reference", "kl_in": "reward", "kl_estimator": "k1"},
    ],
)
def test_what_looks_like_it_and_is_right_is_taken(fields):
    assert settings(**fields)


@pytest.mark.parametrize(
    ("fields", "mode"),
    [
        ({}, "off"),
        ({"ratio_anchor": "proximal"}, "token_truncate"),
        ({"ratio_anchor": "proximal", "importance_sampling_mode": "off"}, "off"),
    ],
)
def test_the_weight_is_off_by_default_only_where_the_ratio_has_it_in_it(fields, mode):
    assert settings(**fields).correction_mode == mode


def test_a_reference_is_needed_where_a_kl_to_it_counts():
    in_loss = settings(beta=0.1, kl_target="reference")
    in_reward = settings(beta=0.1, kl_target="reference", kl_in="reward")
    off = settings(kl_target="reference")
    assert [one.needs_reference for one in (in_loss, in_reward, off)] == [True, True, False]
    assert [one.has_reference_in_loss for one in (in_loss, in_reward)] == [True, False]
    assert [one.has_reference_in_reward for one in (in_loss, in_reward)] == [False, True]


@pytest.mark.parametrize(
    ("fields", "has_gradient"),
    [
        ({}, False),
        ({"beta": 0.1}, True),
        ({"entropy_coef": 0.01}, True),
        ({"beta": 0.1, "kl_target": "reference", "kl_in": "reward"}, False),
    ],
)
def test_a_group_without_signal_has_a_gradient_only_of_kl_or_entropy(fields, has_gradient):
    assert settings(**fields).has_gradient_without_signal is has_gradient
