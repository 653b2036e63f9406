"""One step: groups in, one optimiser step (or num_iterations of them) on the policy.

    groups -> selection -> micro-batches -> [log-probs -> loss -> backward] -> clip -> AdamW

The normaliser is counted over the whole step before the first backward, so micro-batching never
changes the gradient. The same groups on the same weights lead to the same weights.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from statistics import fmean

import torch
from torch import Tensor

from volley.learner.batching import MicroBatch, TrainSequence, micro_batches
from volley.learner.corrections import Correction, correct
from volley.learner.episode_metrics import describe_episodes
from volley.learner.kl import estimate_kl
from volley.learner.ledger import Disposition, closing
from volley.learner.lengths import Completion
from volley.learner.log_probs import LogProbs
from volley.learner.loss import Loss, Normaliser, TokenLogProbs, TokenSums, compute_loss
from volley.learner.masking import select
from volley.learner.masters import Masters
from volley.learner.mismatch import Mismatch, describe_mismatch, measure_mismatch
from volley.learner.policy import Policy
from volley.learner.schedule import learning_rate_at
from volley.learner.selection import sampled_sequences, select_sequences
from volley.learner.settings import Settings
from volley.learner.step_metrics import (
    Metrics,
    Pass,
    describe_groups,
    describe_passes,
    describe_selection,
)
from volley.learner.step_rules import (
    adamw_rules,
    correction_rules,
    loss_rules,
    schedule_rules,
    selection_rules,
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
    completions: tuple[Completion, ...] = ()
    """Lengths and fates of all that was collected."""

    @property
    def refused(self) -> bool:
        """Loss or gradient was not finite, so the weights were left alone."""
        refused = {n for n, state in self.dispositions.items() if state is Disposition.REFUSED}
        return not self.applied and bool(refused - set(self.set_aside))


@dataclass(frozen=True, slots=True, eq=False)
class _Frozen:
    """What the first pass finds out about a micro-batch, and later ones leave as it is."""

    proximal_BT: Tensor
    reference_BT: Tensor | None
    correction: Correction
    mismatch: Mismatch


@dataclass(slots=True, eq=False)
class _Batch:
    """A micro-batch on its device."""

    micro_batch: MicroBatch
    frozen: _Frozen | None = None


def unnoted(numbers: Collection[int]) -> None:
    """Nobody needs to know."""


class Update:
    """Trains a policy; holds the optimiser, and the reference model where the KL is to it."""

    def __init__(self, policy: Policy, settings: Settings) -> None:
        self._policy = policy
        self._masters = Masters(policy.parameters(), adamw_rules(settings.optim))
        self._reference: Policy | None = None
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Take the next steps under these settings; weights and optimiser state stay."""
        self._settings = settings
        self._masters.adopt(adamw_rules(settings.optim))
        self._loss_rules = loss_rules(settings.loss)
        self._correction_rules = correction_rules(settings.loss)
        self._selection_rules = selection_rules(settings)
        self._schedule = schedule_rules(settings)
        needs_reference = settings.loss.needs_reference
        if needs_reference and self._reference is None:
            self._reference = Policy.load(settings.model, str(self._policy.device))
        if not needs_reference:
            self._reference = None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint needs: masters and optimiser state, by name."""
        return self._masters.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Be as the update was that gave these tensors; raises ValueError if they do not fit."""
        self._masters.restore(tensors)

    def teaches(self, group: Group, head: Version) -> bool:
        """Whether anything of the group would be trained under `head`."""
        return bool(select_sequences([group], head, self._selection_rules).sequences)

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
        kl_penalties = self._kl_penalties(chosen, head)
        selection = select_sequences(chosen, head, self._selection_rules, kl_penalties)
        learning_rate = learning_rate_at(head.step, self._schedule)
        passes, mismatches = self._train(selection.sequences, learning_rate, before_batch)
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
            **describe_passes(passes, to_reference=self._settings.loss.has_reference_in_loss),
            **describe_groups(chosen, selection, self._settings.reward.functions),
            **describe_episodes(chosen),
            **describe_selection(selection),
            **describe_mismatch(mismatches),
            "kl_penalty_mean": fmean(kl_penalties) if kl_penalties else None,
            "beta": self._settings.loss.beta,
            "learning_rate": learning_rate,
        }
        return StepResult(applied, dispositions, left_out, metrics, selection.completions)

    def _train(
        self,
        sequences: Sequence[TrainSequence],
        learning_rate: float,
        before_batch: Callable[[Collection[int]], None],
    ) -> tuple[list[Pass], list[Mismatch]]:
        """Take the passes; one that is not finite takes no optimiser step and is the last."""
        if not sequences:
            return [], []
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
        return passes, [batch.frozen.mismatch for batch in batches if batch.frozen is not None]

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
            now = self._recompute(self._policy, batch.micro_batch)
            share = self._loss(batch, now, normaliser)
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

    def _loss(self, batch: _Batch, now: LogProbs, normaliser: Normaliser) -> Loss:
        if batch.frozen is None:
            # The first pass runs before any optimiser step: this is the policy at the start.
            batch.frozen = self._freeze(batch.micro_batch, now.policy_logprobs_BT.detach())
        frozen, micro_batch = batch.frozen, batch.micro_batch
        is_anchor = self._settings.loss.ratio_anchor == "proximal"
        return compute_loss(
            TokenLogProbs(
                now.policy_logprobs_BT,
                micro_batch.sampler_logprobs_BT,
                frozen.proximal_BT if is_anchor else None,
                frozen.reference_BT,
                now.entropy_BT if self._loss_rules.entropy_coef > 0 else None,
            ),
            frozen.correction,
            micro_batch.advantages_B,
            micro_batch.mask_BT,
            self._loss_rules,
            normaliser,
        )

    def _freeze(self, micro_batch: MicroBatch, proximal_BT: Tensor) -> _Frozen:
        correction = correct(
            *(proximal_BT, micro_batch.sampler_logprobs_BT, micro_batch.mask_BT),
            self._correction_rules,
        )
        has_weights = self._correction_rules.weight != "off"
        in_loss = self._settings.loss.has_reference_in_loss
        return _Frozen(
            proximal_BT,
            self._reference_logprobs_BT(micro_batch) if in_loss else None,
            correction,
            measure_mismatch(micro_batch, proximal_BT, correction, has_weights=has_weights),
        )

    def _kl_penalties(self, groups: Sequence[Group], head: Version) -> list[float]:
        """What each of the P x G rewards loses for the distance to the reference, if it does."""
        loss = self._settings.loss
        if not loss.has_reference_in_reward:
            return []
        sequences = sampled_sequences(groups, head)
        penalties: dict[TrainSequence, float] = {}
        for on_host in micro_batches(sequences, self._settings.optim.micro_batch_tokens):
            batch = on_host.to(self._policy.device)
            kl_BT = estimate_kl(
                batch.sampler_logprobs_BT, self._reference_logprobs_BT(batch), loss.kl_estimator
            )
            kl_B = select(kl_BT, batch.mask_BT).sum(-1).tolist()
            penalties |= zip(batch.sequences, (loss.beta * kl for kl in kl_B), strict=True)
        return [penalties[sequence] for sequence in sequences]

    @torch.no_grad()
    def _reference_logprobs_BT(self, micro_batch: MicroBatch) -> Tensor:
        assert self._reference is not None
        return self._recompute(self._reference, micro_batch).policy_logprobs_BT

    def _recompute(self, policy: Policy, micro_batch: MicroBatch) -> LogProbs:
        return policy.recompute_log_probs(micro_batch, self._settings.sampling.temperature)
