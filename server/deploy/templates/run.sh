#!/bin/sh
# Starts a run with the settings in run.toml, or goes on with one: run.sh [RUN-TO-RESUME]
set -eu
cd "$(dirname "$0")"
. ./environment.sh
settings="$PWD/state/run.toml"
{ cat run.toml; printf 'home = "%s"\nresume = "%s"\n' "$PWD/home" "${1:-}"; } > "$settings"
exec flwr run app tacit --stream -c "$settings"
