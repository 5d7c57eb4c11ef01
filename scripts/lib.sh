# What the scripts in this directory share. They source it; it is never run.
# shellcheck shell=bash
set -euo pipefail

scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$scripts")

# The ordinary user that mounts and runs when root starts the tests.
# shellcheck disable=SC2034 # used by setup and demo
test_user=lamina-test

# Colour on a terminal, plain text for logs and CI.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ -z "${CI:-}" ]; then
  bold=$'\e[1m' dim=$'\e[2m' reset=$'\e[0m'
else
  bold='' dim='' reset=''
fi

say() { printf '%s==>%s %s\n' "$bold" "$reset" "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

is_root() { [ "$(id -u)" = 0 ]; }

has() { command -v "$1" >/dev/null 2>&1; }

# Milliseconds of a clock that only goes forward.
now_ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }

# step WHAT COMMAND...: prints WHAT, runs COMMAND, prints how long it took.
step() {
  local what=$1 begin
  shift
  say "$what"
  begin=$(now_ms)
  "$@"
  printf '%s    took %s s%s\n' "$dim" "$(awk -v ms="$(($(now_ms) - begin))" 'BEGIN { printf "%.1f", ms / 1000 }')" "$reset"
}

# Where scripts/images keeps what it makes: shared by every clone when root can write there.
images_dir() {
  if [ -n "${LAMINA_IMAGES:-}" ]; then
    printf '%s\n' "$LAMINA_IMAGES"
  elif is_root; then
    printf '/var/cache/lamina-images\n'
  else
    printf '%s/target/images\n' "$repo"
  fi
}
