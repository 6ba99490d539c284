#!/bin/sh
# SuperLink: what silos connect to. It may be killed and started again at any time.
set -eu
cd "$(dirname "$0")"
. ./environment.sh
exec "$python" -m tacit.server.deploy.superlink \
    --host {{ listen }} --port {{ port }} \
    --ssl-certfile superlink.crt --ssl-keyfile superlink.key --ssl-ca-certfile ca.crt \
    --enable-supernode-auth --disable-runtime-dependency-installation \
    --isolation process --superexec-auth-secret-file superexec.secret \
    --database state/superlink.db
