#!/bin/sh
# The two secrets of a stack: given ones are looked at, others are made up once and kept.
set -eu
status=0
for name in token redis_password; do
  file=/secrets/$name
  if [ -s "$file" ] && [ -r "$file" ]; then
    continue
  elif [ -n "${VOLLEY_SECRETS:-}" ]; then
    echo "volley: error: VOLLEY_SECRETS: $VOLLEY_SECRETS/$name is missing, empty, or not readable" \
      "inside containers (user 10001): openssl rand -hex 32 > $VOLLEY_SECRETS/$name &&" \
      "chmod 644 $VOLLEY_SECRETS/$name" >&2
    status=2
  else
    head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' > "$file.new"
    mv "$file.new" "$file"
  fi
done
exit $status
