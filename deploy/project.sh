#!/bin/sh
# Look at the run that VOLLEY_PROJECT names, mounted here as /given, or build the sort demo's, once.
set -eu

stop() {
  echo "volley: error: VOLLEY_PROJECT=$VOLLEY_PROJECT: $1" >&2
  exit 2
}

if [ -n "$VOLLEY_PROJECT" ]; then
  [ -r /given ] && [ -x /given ] || stop "the containers' user cannot open it: chmod -R a+rX $VOLLEY_PROJECT"
  [ -e "/given/$VOLLEY_CONFIG" ] || stop "there is no file $VOLLEY_CONFIG: give the folder that holds it"
  # Weights are often saved for their owner alone, and the containers have a user of their own.
  unreadable=$(find /given -name '.*' -prune -o ! -readable -print -quit)
  [ -z "$unreadable" ] || stop "the containers' user cannot read ${unreadable#/given/}: chmod -R a+rX $VOLLEY_PROJECT"
elif [ ! -e /project/config.toml ]; then
  echo "Building the sort demo: data, and a model that has seen 64 batches of right answers ..."
  exec python -m volley.learner.sort_task /project --steps "$VOLLEY_DEMO_STEPS"
fi
