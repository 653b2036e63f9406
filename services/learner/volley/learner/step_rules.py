"""The settings of a step as the rules of the pure functions that it is made of."""

from volley.learner.corrections import Band, CorrectionRules
from volley.learner.loss import LOSS_FORMS, LossForm, LossRules
from volley.learner.loss_code import load_own_surrogate
from volley.learner.loss_settings import LossSettings
from volley.learner.masters import AdamWRules
from volley.learner.overlong import OverlongRules
from volley.learner.schedule import ScheduleRules
from volley.learner.selection import SelectionRules
from volley.learner.settings import OptimSettings, Settings
from volley.learner.surrogates import ClipRules


def selection_rules(settings: Settings) -> SelectionRules:
    return SelectionRules(
        num_generations=settings.sampling.num_generations,
        reward_weights=settings.reward.function_weights,
        scale_rewards=settings.loss.scale_rewards,
        mask_truncated_completions=settings.loss.mask_truncated_completions,
        filter_without_signal=not settings.loss.has_gradient_without_signal,
        overlong=OverlongRules(
            max_completion_length=settings.sampling.max_completion_length,
            buffer_tokens=settings.reward.overlong_buffer_tokens,
            penalty=settings.reward.overlong_penalty,
        ),
        advantage_estimator=settings.loss.advantage_estimator,
    )


def correction_rules(loss: LossSettings) -> CorrectionRules:
    return CorrectionRules(
        weight=loss.correction_mode,
        clip_max=loss.importance_sampling_clip_max,
        mask=loss.off_policy_mask,
        band=Band(loss.off_policy_mask_low, loss.off_policy_mask_high),
    )


def loss_rules(loss: LossSettings) -> LossRules:
    """Raises Stop where the user's own loss cannot be loaded."""
    return LossRules(
        form=LOSS_FORMS[loss.loss_type] if loss.loss_type in LOSS_FORMS else _own_form(loss),
        clip=ClipRules(loss.epsilon, loss.upper_epsilon, loss.delta),
        beta=loss.beta if loss.kl_in == "loss" else 0.0,
        kl_estimator=loss.kl_estimator,
        use_bias_correction_kl=loss.use_bias_correction_kl,
        entropy_coef=loss.entropy_coef,
    )


def _own_form(loss: LossSettings) -> LossForm:
    assert loss.loss_source is not None, "read with the config"
    return LossForm(load_own_surrogate(loss.loss_type, loss.loss_source))


def adamw_rules(optim: OptimSettings) -> AdamWRules:
    return AdamWRules(
        beta1=optim.adam_beta1,
        beta2=optim.adam_beta2,
        epsilon=optim.adam_epsilon,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.max_grad_norm,
    )


def schedule_rules(settings: Settings) -> ScheduleRules:
    optim = settings.optim
    return ScheduleRules(
        learning_rate=optim.learning_rate,
        shape=optim.lr_scheduler_type,
        warmup_steps=optim.warmup_steps,
        num_steps=settings.run.steps,
        min_lr_rate=optim.min_lr_rate,
    )
