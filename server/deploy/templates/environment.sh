# Sourced by the scripts here, in this folder.
python="{{ python }}"
export PATH="$(dirname "$python"):$PATH"
export FLWR_HOME="$PWD/flwr" FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
export FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1
# How often a SuperExec asks whether there is something to start, in seconds.
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL=0.2
umask 077
