#!/usr/bin/env bash
# Runs N processes of one training job on this machine, CPU or GPU.
#
#   launch/local.sh N COMMAND [ARGUMENT...]
#   launch/local.sh 2 python -m retina_jax.main --config=flair --workdir=workdir/two
#
# GPUs are dealt out evenly. Output of all processes but the first is marked with its number.
# When one process fails, the others are stopped and its status is the script's. SIGTERM and
# Ctrl-C are passed on as SIGTERM: the run saves its state and ends with status 143.
#
# Variables: LAUNCH_PORT, of the coordinator (default: a free one); LAUNCH_GRACE, the seconds that
# the others get to end once one has ended badly (default 60), before they are killed.
set -u

usage() {
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

[[ $# -ge 2 && $1 =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift

free_port() {
  local port
  for _ in {1..50}; do
    port=$((20000 + RANDOM % 12000))
    # Nobody answers there: it is free.
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
  done
  echo "error: found no free port; set LAUNCH_PORT" >&2
  exit 1
}

gpus() {
  if [[ ${JAX_PLATFORMS:-} == cpu ]]; then
    echo 0
  elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    awk -F, '{ print NF }' <<<"$CUDA_VISIBLE_DEVICES"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi -L 2>/dev/null | grep -c '^GPU'
  else
    echo 0
  fi
}

devices=$(gpus)
if ((devices % count)); then
  echo "error: $devices GPUs do not divide over $count processes; choose another N, or the GPUs" \
    "with CUDA_VISIBLE_DEVICES, or JAX_PLATFORMS=cpu" >&2
  exit 2
fi
share=$((devices / count))

port=${LAUNCH_PORT:-$(free_port)} || exit 1
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES=$count

pids=()
stopping=0
stop() {
  stopping=1
  kill -TERM "${pids[@]}" 2>/dev/null
}
trap stop TERM INT HUP

for ((rank = 0; rank < count && !stopping; rank++)); do
  export JAX_PROCESS_ID=$rank
  if ((share)); then
    JAX_LOCAL_DEVICE_IDS=$(seq -s, $((rank * share)) $(((rank + 1) * share - 1)))
    export JAX_LOCAL_DEVICE_IDS
  fi
  if ((rank == 0)); then
    "$@" &
  else
    "$@" > >(awk -v rank="$rank" '{ print "[" rank "] " $0; fflush() }') \
      2> >(awk -v rank="$rank" '{ print "[" rank "] " $0; fflush() }' >&2) &
  fi
  pids+=($!)
done

# Polling rather than `wait -n`: that one returns early, and tells no process id, when a signal
# arrives in the meantime.
status=0
deadline=
while ((${#pids[@]})); do
  alive=()
  for pid in "${pids[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      alive+=("$pid")
      continue
    fi
    wait "$pid"
    code=$?
    if ((code && !status)); then
      status=$code
      deadline=$((SECONDS + ${LAUNCH_GRACE:-60}))
    fi
  done
  pids=(${alive[@]+"${alive[@]}"})
  ((${#pids[@]})) || break
  if ((status && !stopping)); then
    echo "error: a process ended with status $status; stopping the others" >&2
    stop
  fi
  # The others may be waiting for the lost one for ever.
  if [[ -n $deadline ]] && ((SECONDS >= deadline)); then
    kill -KILL "${pids[@]}" 2>/dev/null
  fi
  sleep 0.2
done
exit "$status"
