"""The [loss] section: which estimate of the gradient is made, and what cannot be a right one.

docs/algorithm.md has the equation behind each key, docs/names.md the names that others give it.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from volley.learner.section import PositiveFloat, PositiveInt, Section

LOSS_TYPES = ("dapo", "grpo", "dr_grpo", "gspo", "cispo", "dppo_tv", "dppo_kl")

CorrectionMode = Literal["off", "token_truncate", "sequence_truncate"]


class LossSettings(Section):
    loss_type: str = "dapo"
    """dapo, grpo, dr_grpo, gspo, cispo, dppo_tv, dppo_kl, or `module:function` of your own."""
    loss_source: str | None = None
    """Text of the module of your own loss; left out: read from its file beside the config."""
    advantage_estimator: Literal["grpo", "rloo", "reinforce_plus_plus_baseline"] = "grpo"
    """What a reward is compared with, and over what the comparison is scaled."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """What the advantage is divided by."""
    epsilon: PositiveFloat = 0.2
    """Lower clip range of the ratio; of the divergence with dppo_tv and dppo_kl."""
    epsilon_high: PositiveFloat | None = None
    """Upper clip range; left out: epsilon."""
    delta: PositiveFloat | None = None
    """Dual clip: greatest ratio of a token with a negative advantage; left out: no limit."""
    ratio_anchor: Literal["sampler", "proximal"] = "sampler"
    """The policy under the ratio: that which sampled, or that at the step's start."""
    importance_sampling_mode: CorrectionMode | None = None
    """The weight exp(proximal - sampler); left out: token_truncate with the proximal anchor."""
    importance_sampling_clip_max: Annotated[float, Field(ge=1)] = 2.0
    """Greatest value of that weight."""
    off_policy_mask: Literal["off", "token", "sequence_mean", "sequence_any"] = "off"
    """What leaves the loss when exp(proximal - sampler) is outside of the two limits below."""
    off_policy_mask_low: Annotated[float, Field(ge=0, lt=1)] = 0.5
    off_policy_mask_high: Annotated[float, Field(gt=1)] = 5.0
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL term; 0 turns it off."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where the KL term is: added to the loss, or taken off each trajectory's reward."""
    kl_target: Literal["sampler", "reference"] = "sampler"
    """The KL's other policy: that which sampled, or the frozen starting model."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Of the KL to the reference."""
    use_bias_correction_kl: bool = True
    """Multiply the KL to the reference by the differentiable ratio."""
    entropy_coef: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the entropy bonus, a mean over tokens; 0 turns it off."""
    num_iterations: PositiveInt = 1
    """Passes over a step's groups, each with its own optimiser step."""
    mask_truncated_completions: bool = False
    """Leave completions that hit the length limit out of the loss."""

    @property
    def upper_epsilon(self) -> float:
        return self.epsilon if self.epsilon_high is None else self.epsilon_high

    @property
    def correction_mode(self) -> CorrectionMode:
        """Of the importance weight; off by default where the ratio has it in it already."""
        default: CorrectionMode = "token_truncate" if self.ratio_anchor == "proximal" else "off"
        return self.importance_sampling_mode or default

    @property
    def needs_reference(self) -> bool:
        return self.beta > 0 and self.kl_target == "reference"

    @property
    def has_reference_in_loss(self) -> bool:
        return self.needs_reference and self.kl_in == "loss"

    @property
    def has_reference_in_reward(self) -> bool:
        return self.needs_reference and self.kl_in == "reward"

    @property
    def has_gradient_without_signal(self) -> bool:
        """A group whose advantages are all 0 moves the policy nevertheless."""
        return (self.beta > 0 and self.kl_in == "loss") or self.entropy_coef > 0

    @model_validator(mode="after")
    def _is_a_known_loss(self) -> Self:
        if self.loss_type not in LOSS_TYPES and ":" not in self.loss_type:
            raise ValueError(
                f"loss_type = {self.loss_type!r} is none of {', '.join(LOSS_TYPES)}: choose one, "
                "or name your own as module:function"
            )
        return self

    @model_validator(mode="after")
    def _weighs_what_was_sampled_once(self) -> Self:
        if self.ratio_anchor == "sampler" and self.correction_mode != "off":
            raise ValueError(
                f"importance_sampling_mode = {self.correction_mode} with ratio_anchor = sampler "
                "weighs staleness twice, since that ratio already is exp(policy - sampler): set "
                "ratio_anchor = 'proximal', or leave importance_sampling_mode out"
            )
        return self

    @model_validator(mode="after")
    def _scales_as_its_estimator_does(self) -> Self:
        scale = {"rloo": "none", "reinforce_plus_plus_baseline": "batch"}
        needed = scale.get(self.advantage_estimator, self.scale_rewards)
        if self.scale_rewards != needed:
            raise ValueError(
                f"advantage_estimator = {self.advantage_estimator} with scale_rewards = "
                f"{self.scale_rewards} is another estimator: set scale_rewards = '{needed}'"
            )
        return self

    @model_validator(mode="after")
    def _has_a_dual_clip_above_its_clip(self) -> Self:
        if self.delta is not None and self.loss_type == "cispo":
            raise ValueError(
                "delta has nothing to hold with loss_type = cispo, whose weights are bounded by "
                "1 + epsilon_high: leave delta out"
            )
        if self.delta is not None and self.delta <= 1 + self.upper_epsilon:
            raise ValueError(
                f"delta = {self.delta:g} is not above 1 + epsilon_high = "
                f"{1 + self.upper_epsilon:g}, so it would take the place of the clip: set a "
                "greater one (3 is usual) or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _masks_whole_sequences_where_it_weighs_them(self) -> Self:
        if self.loss_type == "gspo" and self.off_policy_mask == "token":
            raise ValueError(
                "off_policy_mask = token with loss_type = gspo would change the sequence that the "
                "ratio is of: use sequence_mean or sequence_any"
            )
        return self

    @model_validator(mode="after")
    def _has_the_gradient_of_a_kl(self) -> Self:
        if not self.has_reference_in_loss:
            return self
        if self.kl_estimator == "k1" and not self.use_bias_correction_kl:
            raise ValueError(
                "kl_estimator k1 without use_bias_correction_kl has no gradient on-policy: "
                "use k2 or k3, or set use_bias_correction_kl = true"
            )
        if self.kl_estimator == "k2" and self.use_bias_correction_kl:
            raise ValueError(
                "kl_estimator k2 with use_bias_correction_kl has not the gradient of a KL: use k1 "
                "or k3, or set use_bias_correction_kl = false"
            )
        return self

    @model_validator(mode="after")
    def _rewards_closeness_to_something_else(self) -> Self:
        if self.beta > 0 and self.kl_in == "reward" and self.kl_target == "sampler":
            raise ValueError(
                "kl_in = reward with kl_target = sampler is always 0, since a trajectory is where "
                "its sampler was: set kl_target = 'reference', or kl_in = 'loss'"
            )
        return self
