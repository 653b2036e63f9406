"""One step: groups in, one optimiser step (or num_iterations of them) on the policy.

    groups -> selection -> micro-batches -> [log-probs -> loss -> backward] -> clip -> AdamW

The normaliser is counted over the whole step before the first backward, so micro-batching never
changes the gradient. The same groups on the same weights lead to the same weights.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from volley.learner.batching import MicroBatch, TrainSequence, micro_batches
from volley.learner.ledger import Disposition, closing
from volley.learner.log_probs import LogProbs
from volley.learner.loss import (
    Loss,
    LossRules,
    Normaliser,
    TokenLogProbs,
    TokenSums,
    compute_loss,
    select,
)
from volley.learner.masters import AdamWRules, Masters
from volley.learner.policy import Policy
from volley.learner.schedule import ScheduleRules, learning_rate_at
from volley.learner.selection import SelectionRules, select_sequences
from volley.learner.settings import LossSettings, OptimSettings, Settings
from volley.learner.step_metrics import (
    Metrics,
    Pass,
    describe_groups,
    describe_passes,
    describe_selection,
)
from volley.schemas.groups import Group, Version
from volley.telemetry.failpoints import reach


@dataclass(frozen=True, slots=True)
class StepResult:
    """What became of a step and of its groups."""

    applied: bool
    """The weights changed: there is a version to publish."""
    dispositions: dict[int, Disposition]
    """By the number of the group."""
    set_aside: tuple[int, ...]
    """Numbers that were left out as poison."""
    metrics: Metrics

    @property
    def refused(self) -> bool:
        """Loss or gradient was not finite, so the weights were left alone."""
        refused = {n for n, state in self.dispositions.items() if state is Disposition.REFUSED}
        return not self.applied and bool(refused - set(self.set_aside))


@dataclass(slots=True, eq=False)
class _Batch:
    """A micro-batch, and the frozen log-probs that its first pass fills in for the later ones."""

    micro_batch: MicroBatch
    proximal_BT: Tensor | None = None
    reference_BT: Tensor | None = None


def unnoted(numbers: Collection[int]) -> None:
    """Nobody needs to know."""


class Update:
    """Trains a policy; holds the optimiser, and the reference model where the KL is to it."""

    def __init__(self, policy: Policy, settings: Settings) -> None:
        self._policy = policy
        self._masters = Masters(policy.parameters(), _adamw_rules(settings.optim))
        self._reference: Policy | None = None
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Take the next steps under these settings; weights and optimiser state stay."""
        self._settings = settings
        self._masters.adopt(_adamw_rules(settings.optim))
        self._loss_rules = _loss_rules(settings.loss)
        self._selection_rules = _selection_rules(settings)
        self._schedule = _schedule_rules(settings)
        to_reference = settings.loss.beta > 0 and settings.loss.kl_target == "reference"
        if to_reference and self._reference is None:
            self._reference = Policy.load(settings.model, str(self._policy.device))
        if not to_reference:
            self._reference = None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs: masters and optimiser state, by name."""
        return self._masters.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Be as the update was that gave these tensors; raises ValueError if they do not fit."""
        self._masters.restore(tensors)

    def step(
        self,
        groups: Sequence[Group],
        head: Version,
        set_aside: Collection[int] = (),
        before_batch: Callable[[Collection[int]], None] = unnoted,
    ) -> StepResult:
        """Train on `groups`, collected under `head`; their numbers have a disposition after it.

        Numbers in `set_aside` are refused untrained. `before_batch` hears which numbers are in a
        micro-batch before each time that it is trained.
        """
        chosen = [group for group in groups if group.number not in set_aside]
        selection = select_sequences(chosen, self._selection_rules)
        learning_rate = learning_rate_at(head.step, self._schedule)
        passes = (
            self._train(selection.sequences, learning_rate, before_batch)
            if selection.sequences
            else []
        )
        applied = bool(passes) and passes[0].is_finite
        dispositions = {
            number: Disposition.REFUSED
            if disposition is Disposition.TRAINED and not applied
            else disposition
            for number, disposition in selection.dispositions.items()
        }
        left_out = tuple(group.number for group in groups if group.number in set_aside)
        dispositions |= closing(left_out, Disposition.REFUSED)
        metrics = {
            **describe_passes(passes, to_reference=self._reference is not None),
            **describe_groups(chosen, selection, self._settings.reward.functions),
            **describe_selection(selection, head),
            "beta": self._settings.loss.beta,
            "learning_rate": learning_rate,
        }
        return StepResult(applied, dispositions, left_out, metrics)

    def _train(
        self,
        sequences: Sequence[TrainSequence],
        learning_rate: float,
        before_batch: Callable[[Collection[int]], None],
    ) -> list[Pass]:
        """Take the passes; one that is not finite takes no optimiser step and is the last."""
        normaliser = Normaliser(
            num_sequences=len(sequences),
            num_tokens=sum(one.num_trained_tokens for one in sequences),
            max_completion_length=self._settings.sampling.max_completion_length,
        )
        batches = [
            _Batch(micro_batch.to(self._policy.device))
            for micro_batch in micro_batches(
                sequences, self._settings.optim.micro_batch_tokens, self._policy.share_from
            )
        ]
        passes: list[Pass] = []
        for _ in range(self._settings.loss.num_iterations):
            passes.append(self._accumulate(batches, normaliser, before_batch))
            if not passes[-1].is_finite:
                self._masters.drop_gradients()
                break
            self._masters.step(learning_rate)
            reach("after-optimizer-step")
        return passes

    def _accumulate(
        self,
        batches: Sequence[_Batch],
        normaliser: Normaliser,
        before_batch: Callable[[Collection[int]], None],
    ) -> Pass:
        """The gradient of one pass, clipped, on the masters."""
        losses: list[Tensor] = []
        entropy_sums: list[Tensor] = []
        sums: list[TokenSums] = []
        for batch in batches:
            before_batch(batch.micro_batch.numbers)
            now = self._recompute(self._policy, batch)
            share = self._loss(batch, now.policy_logprobs_BT, normaliser)
            share.loss.backward()
            reach("mid-backward", *batch.micro_batch.numbers)
            self._masters.add_gradients()
            losses.append(share.loss.detach())
            entropy_sums.append(select(now.entropy_BT.detach(), batch.micro_batch.mask_BT).sum())
            sums.append(share.sums)
        grad_norm = self._masters.clip_gradients()
        return Pass(
            loss=float(sum(losses)),
            grad_norm=float(grad_norm),
            sums=reduce(TokenSums.merge, sums),
            entropy_sum=float(sum(entropy_sums)),
        )

    def _loss(self, batch: _Batch, policy_logprobs_BT: Tensor, normaliser: Normaliser) -> Loss:
        if self._settings.loss.ratio_anchor == "proximal" and batch.proximal_BT is None:
            # The first pass runs before any optimiser step: this is the policy at the start.
            batch.proximal_BT = policy_logprobs_BT.detach()
        if self._reference is not None and batch.reference_BT is None:
            with torch.no_grad():
                batch.reference_BT = self._recompute(self._reference, batch).policy_logprobs_BT
        micro_batch = batch.micro_batch
        return compute_loss(
            TokenLogProbs(
                policy_logprobs_BT,
                micro_batch.sampler_logprobs_BT,
                batch.proximal_BT,
                batch.reference_BT,
            ),
            micro_batch.advantages_B,
            micro_batch.mask_BT,
            self._loss_rules,
            normaliser,
        )

    def _recompute(self, policy: Policy, batch: _Batch) -> LogProbs:
        return policy.recompute_log_probs(batch.micro_batch, self._settings.sampling.temperature)


def _selection_rules(settings: Settings) -> SelectionRules:
    return SelectionRules(
        num_generations=settings.sampling.num_generations,
        reward_weights=settings.reward.function_weights,
        scale_rewards=settings.loss.scale_rewards,
        mask_truncated_completions=settings.loss.mask_truncated_completions,
        filter_without_signal=settings.loss.beta == 0,
    )


def _loss_rules(loss: LossSettings) -> LossRules:
    return LossRules(
        loss_type=loss.loss_type,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon if loss.epsilon_high is None else loss.epsilon_high,
        importance_cap=loss.importance_cap,
        beta=loss.beta,
        kl_estimator=loss.kl_estimator,
        use_bias_correction_kl=loss.use_bias_correction_kl,
    )


def _adamw_rules(optim: OptimSettings) -> AdamWRules:
    return AdamWRules(
        beta1=optim.adam_beta1,
        beta2=optim.adam_beta2,
        epsilon=optim.adam_epsilon,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
    )


def _schedule_rules(settings: Settings) -> ScheduleRules:
    optim = settings.optim
    return ScheduleRules(
        learning_rate=optim.learning_rate,
        shape=optim.lr_scheduler_type,
        warmup_steps=optim.warmup_steps,
        num_steps=settings.run.steps,
        min_lr_rate=optim.min_lr_rate,
    )
