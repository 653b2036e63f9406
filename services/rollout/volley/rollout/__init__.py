"""The rollout worker: leases tasks, samples groups, rewards them, follows the weights."""
