#!/bin/sh
# Build what the sort demo starts from, once, unless the run is one's own.
set -eu
if [ -z "$VOLLEY_PROJECT" ] && [ ! -e /project/config.toml ]; then
  echo "Building the sort demo: data, and a model that has seen 64 batches of right answers ..."
  exec python -m volley.learner.sort_task /project --steps "$VOLLEY_DEMO_STEPS"
fi
