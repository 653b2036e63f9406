#!/bin/sh
# Start Redis with the password of its file, which then stands in no command line and no environment.
set -eu
exec docker-entrypoint.sh redis-server - <<CONFIG
$(cat /deploy/redis.conf)
requirepass $(cat /secrets/redis_password)
CONFIG
