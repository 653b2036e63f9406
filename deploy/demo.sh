#!/bin/sh
# The sort demo's data, model and config, made once; nothing to do where a project is given.
set -eu
if [ -n "${VOLLEY_PROJECT:-}" ]; then
  echo "running the project in $VOLLEY_PROJECT"
elif [ ! -e /project/config.toml ]; then
  # Written last, so that where the config is, all is.
  python -m volley.learner.sort_task /project
fi
