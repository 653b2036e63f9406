"""Steps of a real tiny model; it sampled what it trains on unless a test says otherwise."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.builders import make_group, make_trajectory
from volley.learner import mismatch
from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.ledger import Disposition
from volley.learner.policy import Policy
from volley.learner.settings import Settings
from volley.learner.update import Update
from volley.learner.weight_store import root_of_tensors
from volley.schemas.groups import Group, StopReason, Version

HEAD = Version(1, 5)
PROMPT_IDS = (5, 4, 6)
GOOD, BAD = (4, 5, 6, 1), (9, 10, 1)
METRICS = {
    "loss",
    "kl",
    "kl_reference",
    "reward_mean",
    "reward/exact_match",
    "beta",
    "grad_norm",
    "learning_rate",
    "clip_fraction",
    "ratio_mean",
    "ratio_max",
    "entropy",
    "completion_length_mean",
    "completion_length_max",
    "truncated_share",
    "no_signal_share",
    "staleness_mean",
    "staleness_max",
    "num_sequences",
    "num_tokens",
    "kl_penalty_mean",
    "turns_mean",
    "failed_share",
    *mismatch.NAMES,
}
BY_LAG = {"lag_share/5", "lag_kl/5"}


def settings_of(folder: Path, **sections: Mapping[str, object]) -> Settings:
    given: dict[str, Mapping[str, object]] = {
        "model": {"path": str(folder), "dtype": "float32"},
        "data": {"train": "data.jsonl"},
        "sampling": {"num_generations": 2, "temperature": 0.8},
        "optim": {"learning_rate": 1e-2},
    }
    return Settings.model_validate(
        {name: {**given.get(name, {}), **sections.get(name, {})} for name in given | sections}
    )


def make_update(folder: Path, **sections: Mapping[str, object]) -> tuple[Policy, Update]:
    settings = settings_of(folder, **sections)
    policy = Policy.load(settings.model, "cpu")
    return policy, Update(policy, settings)


def logprobs_of(policy: Policy, token_ids: Sequence[int]) -> list[float]:
    """Log-probs of a completion of PROMPT_IDS at the sampling temperature."""
    ids = tuple(token_ids)
    zeros = (0.0,) * len(ids)
    sequence = TrainSequence(PROMPT_IDS, ids, (True,) * len(ids), zeros, 0.0)
    [batch] = micro_batches([sequence], 1000)
    with torch.no_grad():
        found = policy.recompute_log_probs(batch, temperature=0.8).policy_logprobs_BT[0]
    return [float(logprob) for logprob in found]


def group_of(
    policy: Policy, rewards: Sequence[float | None] = (1.0, 0.0), *, number: int = 0
) -> Group:
    """GOOD with the first reward, BAD with the second, both sampled by `policy`."""
    trajectories = [
        make_trajectory([reward], token_ids=ids, sampler_logprobs=logprobs_of(policy, ids))
        for reward, ids in zip(rewards, (GOOD, BAD), strict=True)
    ]
    return make_group(trajectories=trajectories, prompt_ids=PROMPT_IDS, number=number)


def copy_of(policy: Policy) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in policy.published_tensors().items()}


def is_unchanged(policy: Policy, before: dict[str, Tensor]) -> bool:
    after = policy.published_tensors()
    return all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_step_makes_the_rewarded_completion_more_probable(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder)
    good, bad = sum(logprobs_of(policy, GOOD)), sum(logprobs_of(policy, BAD))
    result = update.step([group_of(policy)], HEAD)
    assert result.applied
    assert not result.refused
    assert result.dispositions == {0: Disposition.TRAINED}
    assert sum(logprobs_of(policy, GOOD)) > good
    assert sum(logprobs_of(policy, BAD)) < bad


def test_metrics_of_a_step_on_policy_are_those_worked_by_hand(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder)
    metrics = update.step([group_of(policy), group_of(policy, (1, 1), number=1)], HEAD).metrics
    assert set(metrics) == METRICS | BY_LAG
    advantage = 0.5 / (math.sqrt(0.5) + 1e-4)
    expected = {
        # Seven tokens: four with the advantage, three with its opposite, at a ratio of 1.
        "loss": -advantage * (4 - 3) / 7,
        "kl": 0.0,
        "kl_reference": None,
        "reward_mean": 0.75,
        "reward/exact_match": 0.75,
        "beta": 0.0,
        "learning_rate": 1e-2,
        "clip_fraction": 0.0,
        "ratio_mean": 1.0,
        "ratio_max": 1.0,
        "completion_length_mean": 3.5,
        "completion_length_max": 4,
        "truncated_share": 0.0,
        "no_signal_share": 0.5,
        "staleness_mean": 5.0,
        "staleness_max": 5,
        "num_sequences": 2,
        "num_tokens": 7,
    }
    found = {name: metrics[name] for name in expected}
    assert found == pytest.approx(expected, abs=1e-6)
    assert metrics["grad_norm"] is not None
    assert metrics["grad_norm"] > 0
    assert metrics["entropy"] is not None
    assert 0 < metrics["entropy"] < math.log(policy.vocab_size)


def test_staleness_counts_versions_behind_the_head_on_trained_tokens_only(qwen3_folder: Path):
    _, update = make_update(qwen3_folder)
    old, older = Version(1, 4), Version(1, 1)
    trajectory = make_trajectory(
        [1],
        versions=[HEAD, old, older],
        inserted=[(2, 3)],
        stop_reason=StopReason.LENGTH,
    )
    group = make_group(trajectories=[trajectory, make_trajectory([0], versions=[HEAD] * 3)])
    metrics = update.step([group], HEAD).metrics
    assert metrics["staleness_max"] == 1
    assert metrics["staleness_mean"] == pytest.approx(1 / 5)
    assert metrics["truncated_share"] == 0.5


LOSSES: tuple[Mapping[str, object], ...] = (
    {},
    {"loss_type": "gspo", "num_iterations": 2},
    {"loss_type": "grpo", "ratio_anchor": "proximal", "off_policy_mask": "sequence_any"},
    {"beta": 0.1, "kl_target": "reference", "entropy_coef": 0.1},
    {"beta": 0.5, "kl_in": "reward", "kl_target": "reference", "kl_estimator": "k3"},
)


@pytest.mark.parametrize("loss", LOSSES)
def test_what_is_said_of_inserted_tokens_changes_nothing_of_a_step(
    qwen3_folder: Path, loss: Mapping[str, object]
):
    outcomes = []
    for inserted_logprob, version in ((0.0, HEAD), (math.nan, Version(1, 0))):
        policy, update = make_update(qwen3_folder, loss=loss)
        group = two_turns(policy, inserted_logprob, version)
        before = copy_of(policy)
        result = update.step([group], HEAD)
        assert result.applied
        assert not is_unchanged(policy, before)
        outcomes.append((root_of_tensors(policy.published_tensors()), result.metrics))
    assert outcomes[0] == outcomes[1]
    metrics = outcomes[0][1]
    assert metrics["num_tokens"] == 8 - 3
    assert metrics["staleness_max"] == 0
    assert metrics["mismatch_max"] == pytest.approx(0.0, abs=1e-5)


def two_turns(policy: Policy, inserted_logprob: float, version: Version) -> Group:
    """Tokens 1 and 2, and a first one, are said to be inserted, with this log-prob and version."""
    trajectories = []
    for reward, ids, (start, stop) in ((1.0, (*GOOD, 1), (1, 3)), (0.0, BAD, (0, 1))):
        logprobs, versions = logprobs_of(policy, ids), [HEAD] * len(ids)
        logprobs[start:stop] = [inserted_logprob] * (stop - start)
        versions[start:stop] = [version] * (stop - start)
        trajectories.append(
            make_trajectory(
                [reward],
                token_ids=ids,
                sampler_logprobs=logprobs,
                versions=versions,
                inserted=[(start, stop)],
            )
        )
    return make_group(trajectories=trajectories, prompt_ids=PROMPT_IDS)


def test_a_step_without_signal_leaves_everything_alone(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder, optim={"learning_rate": 1e-2, "weight_decay": 0.1})
    before = copy_of(policy)
    result = update.step([group_of(policy, (1, 1)), group_of(policy, (None, 1), number=1)], HEAD)
    assert not result.applied
    assert not result.refused
    assert result.dispositions == {0: Disposition.FILTERED, 1: Disposition.FILTERED}
    assert result.metrics["loss"] is None
    assert result.metrics["no_signal_share"] == 1.0
    assert is_unchanged(policy, before)


def test_a_step_of_no_groups_is_no_step(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder)
    before = copy_of(policy)
    result = update.step([], HEAD)
    assert (result.applied, result.dispositions) == (False, {})
    assert set(result.metrics) == METRICS
    assert is_unchanged(policy, before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_that_is_not_finite_is_refused_and_the_next_one_is_as_if_it_never_was(
    qwen3_folder: Path, dtype: str
):
    policy, update = make_update(qwen3_folder, model={"dtype": dtype})
    twin, twin_update = make_update(qwen3_folder, model={"dtype": dtype})
    before = copy_of(policy)
    # A ratio of exp(10,000) against a negative advantage.
    impossible = make_trajectory([0], token_ids=BAD, sampler_logprobs=[-1e4] * 3)
    group = make_group(trajectories=[make_trajectory([1]), impossible], number=0)
    result = update.step([group, make_group([1, 1], number=1)], HEAD)
    assert not result.applied
    assert result.refused
    assert result.dispositions == {0: Disposition.REFUSED, 1: Disposition.FILTERED}
    assert result.metrics["loss"] is None
    assert is_unchanged(policy, before)
    good_group = group_of(policy)
    assert update.step([good_group], HEAD).applied
    assert twin_update.step([good_group], HEAD).applied
    assert is_unchanged(policy, copy_of(twin))


def test_the_same_groups_lead_to_the_same_weights(qwen3_folder: Path):
    (policy, update), (twin, twin_update) = make_update(qwen3_folder), make_update(qwen3_folder)
    before = copy_of(policy)
    groups = [group_of(policy), group_of(policy, (0, 1), number=1), group_of(policy, number=2)]
    for step in range(3):
        metrics = update.step(groups, Version(1, step)).metrics
        assert metrics == twin_update.step(groups, Version(1, step)).metrics
    assert not is_unchanged(policy, before)
    assert is_unchanged(policy, copy_of(twin))


def test_small_micro_batches_take_the_same_step(qwen3_folder: Path):
    whole = make_update(qwen3_folder)
    parts = make_update(qwen3_folder, optim={"learning_rate": 1e-2, "micro_batch_tokens": 1})
    groups = [group_of(whole[0]), group_of(whole[0], number=1)]
    metrics = [update.step(groups, HEAD).metrics for _, update in (whole, parts)]
    for name in ("loss", "grad_norm", "entropy", "ratio_mean", "num_tokens"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], rel=1e-5, abs=1e-7)


def test_two_iterations_are_two_optimiser_steps_with_the_same_sampler_anchor(qwen3_folder: Path):
    twice, update = make_update(qwen3_folder, loss={"num_iterations": 2})
    one_by_one, single = make_update(qwen3_folder)
    group = group_of(twice)
    update.step([group], HEAD)
    single.step([group], HEAD)
    once = copy_of(one_by_one)
    single.step([group], HEAD)
    assert not is_unchanged(twice, once)
    assert is_unchanged(twice, copy_of(one_by_one))


@pytest.mark.parametrize(("num_iterations", "moves"), [(1, False), (3, True)])
def test_the_proximal_anchor_stays_where_the_step_began(
    qwen3_folder: Path, num_iterations: int, moves: bool
):
    policy, update = make_update(
        qwen3_folder, loss={"ratio_anchor": "proximal", "num_iterations": num_iterations}
    )
    group = group_of(policy)
    update.step([group], HEAD)
    # The sampler is a version behind now; the ratio starts at 1 all the same.
    metrics = update.step([group], HEAD).metrics
    assert (metrics["ratio_max"] != 1.0) is moves
    assert metrics["kl"] is not None
    assert metrics["kl"] > 1e-6


def test_a_pass_that_is_not_finite_ends_the_step_with_the_passes_before_it(qwen3_folder: Path):
    # The rate drives the weights so far that the second pass overflows.
    optim = {"learning_rate": 1e38}
    policy, update = make_update(qwen3_folder, loss={"num_iterations": 2}, optim=optim)
    once, single = make_update(qwen3_folder, optim=optim)
    group = group_of(policy)
    result = update.step([group], HEAD)
    single.step([group], HEAD)
    assert result.applied
    assert result.dispositions == {0: Disposition.TRAINED}
    assert result.metrics["loss"] is None
    assert is_unchanged(policy, copy_of(once))


def test_the_reference_stays_the_model_that_the_run_began_with(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder, loss={"beta": 0.1, "kl_target": "reference"})
    groups = [group_of(policy), group_of(policy, (1, 1), number=1)]
    first = update.step(groups, HEAD)
    assert first.dispositions == {0: Disposition.TRAINED, 1: Disposition.TRAINED}
    assert first.metrics["kl_reference"] == 0.0
    second = update.step(groups, HEAD).metrics["kl_reference"]
    assert second is not None
    assert second > 1e-6


def test_a_kl_in_the_reward_is_taken_off_what_is_compared(qwen3_folder: Path):
    loss = {"beta": 0.5, "kl_in": "reward", "kl_target": "reference", "kl_estimator": "k1"}
    policy, update = make_update(qwen3_folder, loss=loss)
    # The reference is the policy at the start, so it is the sampler that is away from it.
    trajectories = [
        make_trajectory(
            [1.0],
            token_ids=ids,
            sampler_logprobs=[one + away for one in logprobs_of(policy, ids)],
        )
        for ids, away in ((GOOD, 0.25), (BAD, 0.125))
    ]
    group = make_group(trajectories=trajectories, prompt_ids=PROMPT_IDS)
    result = update.step([group], HEAD)
    # Four tokens of 0.25 nats and three of 0.125, times beta.
    penalties = [0.5, 0.1875]
    assert result.metrics["kl_penalty_mean"] == pytest.approx(sum(penalties) / 2, rel=1e-4)
    assert result.metrics["kl_reference"] is None
    assert result.metrics["reward_mean"] == 1.0
    # Equal rewards have a signal now: the nearer to the reference the better.
    assert result.dispositions == {0: Disposition.TRAINED}
    assert result.metrics["no_signal_share"] == 0.0


def test_an_entropy_bonus_moves_the_policy_where_no_reward_does(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder, loss={"entropy_coef": 0.1})
    before = copy_of(policy)
    result = update.step([group_of(policy, (1, 1))], HEAD)
    assert result.dispositions == {0: Disposition.TRAINED}
    assert not is_unchanged(policy, before)
    later = update.step([group_of(policy, (1, 1))], HEAD)
    assert later.metrics["entropy"] is not None
    assert result.metrics["entropy"] is not None
    assert later.metrics["entropy"] > result.metrics["entropy"]


def test_a_group_teaches_what_would_be_trained(qwen3_folder: Path):
    policy, update = make_update(qwen3_folder)
    assert update.teaches(group_of(policy, (1, 0)), HEAD)
    assert not update.teaches(group_of(policy, (1, 1)), HEAD)


def test_tokens_outside_of_the_band_have_no_gradient(qwen3_folder: Path):
    # The sampler found every token ten times as probable as the learner does.
    gone, masked = make_update(qwen3_folder, loss={"off_policy_mask": "token"})
    before = copy_of(gone)
    far = group_of(gone)
    trajectories = [
        make_trajectory(
            one.rewards,
            token_ids=one.token_ids,
            sampler_logprobs=[logprob + math.log(10) for logprob in one.sampler_logprobs],
        )
        for one in far.trajectories
    ]
    result = masked.step([make_group(trajectories=trajectories, prompt_ids=PROMPT_IDS)], HEAD)
    assert result.metrics["masked_token_share"] == 1.0
    assert result.metrics["sampler_ratio_max"] == pytest.approx(0.1, rel=1e-4)
    assert result.metrics["grad_norm"] == 0.0
    assert is_unchanged(gone, before)


def test_the_weight_of_the_proximal_anchor_scales_the_step_and_is_capped(qwen3_folder: Path):
    norms = []
    # The sampler found every token half, and a hundredth, as probable as the learner does.
    for away in (1.0, 2.0, 100.0):
        policy, update = make_update(
            qwen3_folder,
            loss={"ratio_anchor": "proximal", "importance_sampling_clip_max": 4.0},
        )
        trajectories = [
            make_trajectory(
                one.rewards,
                token_ids=one.token_ids,
                sampler_logprobs=[logprob - math.log(away) for logprob in one.sampler_logprobs],
            )
            for one in group_of(policy).trajectories
        ]
        group = make_group(trajectories=trajectories, prompt_ids=PROMPT_IDS)
        norms.append(update.step([group], HEAD).metrics["grad_norm"])
    first, *others = norms
    assert first is not None
    assert others == [pytest.approx(2 * first, rel=1e-4), pytest.approx(4 * first, rel=1e-4)]


def test_a_strong_kl_to_the_sampler_holds_the_policy_back(qwen3_folder: Path):
    drifts: list[float] = []
    for beta in (0.0, 100.0):
        policy, update = make_update(
            qwen3_folder, loss={"beta": beta, "num_iterations": 8}, optim={"learning_rate": 1e-3}
        )
        group = group_of(policy)
        update.step([group], HEAD)
        drift = update.step([group], HEAD).metrics["kl"]
        assert drift is not None
        drifts.append(drift)
    assert drifts[1] < drifts[0] / 2


def test_the_forward_runs_on_exactly_the_published_bfloat16_tensors(
    qwen3_folder: Path, tmp_path: Path
):
    policy, update = make_update(qwen3_folder, model={"dtype": "bfloat16"})
    group = group_of(policy)
    for step in range(3):
        assert update.step([group], Version(1, step)).applied
    policy.save_pretrained(tmp_path)
    worker = Policy.load(settings_of(tmp_path, model={"dtype": "bfloat16"}).model, "cpu")
    assert {tensor.dtype for tensor in worker.published_tensors().values()} == {torch.bfloat16}
    assert is_unchanged(worker, copy_of(policy))
    assert logprobs_of(worker, GOOD) == logprobs_of(policy, GOOD)
