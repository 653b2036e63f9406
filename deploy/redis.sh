#!/bin/sh
# Redis with its password from a file: as an argument everybody who lists processes would see it.
set -eu
umask 077
{ cat /deploy/redis.conf; printf 'requirepass %s\n' "$(cat /secrets/redis_password)"; } > /tmp/redis.conf
exec redis-server /tmp/redis.conf
