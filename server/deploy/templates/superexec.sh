#!/bin/sh
# SuperExec: starts the coordinator (the ServerApp) of each run, on the SuperLink's machine.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
exec flower-superexec --runtime-api-address 127.0.0.1:{{ port }} \
    --root-certificates ca.crt --superexec-auth-secret-file superexec.secret
