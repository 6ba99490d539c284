#!/bin/sh
# Lets the silos' SuperNodes in; once for each, while the SuperLink runs. Safe to repeat.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
for key in nodes/*.pub; do
    name="silo-$(basename "$key" .pub)"
    if said=$(flwr supernode register "$key" tacit --name "$name" 2>&1); then
        echo "$name: registered"
    else
        case "$said" in
            *"already in use"*) echo "$name: was registered before" ;;
            *) echo "$name: $said" >&2; exit 1 ;;
        esac
    fi
done
