# What `fm up` does when Prefect answers, for the containers of compose.yaml and kuberay/: `sh infra/deploy.sh`, as often as
# one likes. FM_NOTIFY_URL is for this one alone.
set -eu
mkdir -p "$(readlink -m runs)" # runs leads to the volume that all nodes see, and a new one is empty
# `deploy` refuses a pool that is not there, and a worker that makes it may come later.
prefect work-pool inspect flow-matching >/dev/null 2>&1 || prefect work-pool create --type process flow-matching
exec python -m flows.deploying
