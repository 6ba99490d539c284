#!/bin/sh
# SuperNode: this silo's part. It may be killed and started again at any time.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
exec "$python" -m tacit.client.supernode \
    --superlink {{ superlink }} --root-certificates ca.crt \
    --auth-supernode-private-key node.key \
    --host 127.0.0.1 --port {{ runtime_port }} \
    --isolation process --superexec-auth-secret-file superexec.secret \
    --node-config "partition-id={{ client }} client-home='$PWD/client'"
