#!/usr/bin/env bash
# Runs a training job on every host of a Cloud TPU slice that exists already.
#
#   TPU=my-slice ZONE=us-central2-b launch/tpu_pod.sh \
#     --config=flair:full --config.data_dir=/mount/data --workdir=/mount/runs/flair
#
# Copies the last commit of this checkout there, installs it with the [tpu] extra and starts
# `python -m retina_jax.main` with the given arguments on all hosts at once; JAX finds the others
# by itself. The images of Cloud TPU have Python 3.10, so that `uv` brings a newer one. Data and workdir have to be a file system that all hosts mount (Filestore, or a
# bucket through gcsfuse). Variables: TPU and ZONE; PROJECT if it is not gcloud's default.
# Ctrl-C ends the connection, not the job, which writes ~/retina_jax.log on each host; to stop it:
#
#   TPU=my-slice ZONE=us-central2-b launch/tpu_pod.sh stop    # SIGTERM: the run saves its state
set -euo pipefail

: "${TPU:?set it to the name of the TPU}" "${ZONE:?set it to the zone of the TPU}"
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" "${where[@]}" --worker=all --command="$1"
}

if [[ ${1:-} == stop ]]; then
  # The brackets keep the pattern from matching the shell that runs it.
  on_all_hosts "pkill -TERM -f '[r]etina_jax[.]main'"
  exit
fi

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$TPU:retina_jax.tar.gz" "${where[@]}" --worker=all

arguments=$(printf ' %q' "$@")
on_all_hosts "set -e
  rm -rf retina_jax_code && mkdir retina_jax_code
  tar xzf retina_jax.tar.gz -C retina_jax_code && cd retina_jax_code
  python3 -m pip install --quiet --user uv && uv=~/.local/bin/uv
  \$uv venv --quiet --allow-existing --python=3.12 ~/retina_jax_venv
  . ~/retina_jax_venv/bin/activate
  \$uv pip install --quiet --editable '.[tpu]'
  export RETINA_JAX_CLUSTER=auto
  nohup python -m retina_jax.main$arguments > ~/retina_jax.log 2>&1 < /dev/null &
  tail --pid=\$! --lines=+1 --follow ~/retina_jax.log; wait \$!"
