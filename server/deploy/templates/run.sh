#!/bin/sh
# Starts a run with the settings in run.toml, or goes on with one: run.sh [RUN-TO-RESUME]
# A rollout's, which `tacit rollout --plan FILE` wrote, come on top: ROLLOUT=FILE run.sh
set -eu
cd "$(dirname "$0")"
. ./environment.sh
settings="$PWD/state/run.toml"
{ cat run.toml; [ -z "${ROLLOUT:-}" ] || cat "$ROLLOUT"; printf 'home = "%s"\nresume = "%s"\n' "$PWD/home" "${1:-}"; } > "$settings"
exec flwr run app tacit --stream -c "$settings"
