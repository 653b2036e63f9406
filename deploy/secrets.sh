#!/bin/sh
# Put token, admin_token and redis_password where the other containers read them: copies of one's own, if
# VOLLEY_SECRETS names the folder that is mounted here as /given, else random ones, made once.
set -eu

stop() {
  echo "volley: error: VOLLEY_SECRETS=$VOLLEY_SECRETS: $1" >&2
  echo "Write it with: openssl rand -hex 32 > $VOLLEY_SECRETS/$name" >&2
  exit 2
}

check() {
  [ -e "$1" ] || stop "there is no file $name"
  [ -r "$1" ] && [ -f "$1" ] || stop "the file $name cannot be read"
  [ -s "$1" ] || stop "the file $name is empty"
  case $(cat "$1") in
    *[!A-Za-z0-9._~+/=-]*) stop "the file $name holds more than letters, digits and . _ ~ + / = -" ;;
  esac
}

for name in token admin_token redis_password; do
  if [ -n "$VOLLEY_SECRETS" ]; then
    check "/given/$name"
    cat "/given/$name" >"/secrets/$name"
  elif [ ! -s "/secrets/$name" ]; then
    head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"/secrets/$name"
  fi
  # The volume is mounted by this run's containers alone, which have users of their own.
  chmod 444 "/secrets/$name"
done
