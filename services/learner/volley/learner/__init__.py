"""The learner: issues prompts, collects groups, takes GRPO steps, publishes weights."""
