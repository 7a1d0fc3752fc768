#!/usr/bin/env bash
# Sets up .venv, starts this checkout's own Ray head on the loopback interface, and runs a job on it.
#
# Nothing outside the checkout is touched but the head's temp dir. RAY_ADDRESS set = that cluster is used, and it is
# neither started nor stopped here; local file names then have to mean the same on it.
# State (uv when fetched, logs, the running head) is in .local, safe to delete after `stop`.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: cluster/local.sh train|score|evaluate|test|stop [arguments]

  train, score, evaluate   set up .venv, start Ray if needed, submit jobs/<verb>.py, follow it, end with its status
  test                     set up .venv, run the test suite (arguments go to pytest)
  stop                     stop the Ray head that this script started for this checkout

Relative paths in arguments mean the folder you are in. `cluster/local.sh train --help` lists every setting.
RAY_ADDRESS=http://host:8265 uses an existing cluster. PYTHON=/path/to/python chooses the interpreter of .venv.
GAINRL_EXTRA=cpu|gpu chooses the packages; else they are those for GPUs where the machine has one that they can use.
The tests run on CPUs, with an environment of their own (.local/venv-cpu) beside one for GPUs.
TEXT
}

say() { printf '[local.sh] %s\n' "$*"; }
fail() { printf '[local.sh] error: %s\n' "$*" >&2; exit 1; }

caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
state=$root/.local
# Unix socket paths end at 107 characters, so Ray's temp dir cannot be inside the checkout.
temp=/tmp/gainrl-$UID-$(printf %s "$root" | sha256sum | cut -c1-8)

locked() { # runs a function with no other local.sh of this checkout inside one
  mkdir -p "$state"
  (flock -w 1800 9 || fail "another local.sh holds $state/lock for 30 minutes: end it"; "$@") 9>"$state/lock"
}

# ---- set-up -------------------------------------------------------------------------------------------------------

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "Python 3.11 to 3.13 is needed, found ${PYTHON:-$(python3 --version 2>&1 || true)}: install python3.11 or set PYTHON"
}

find_uv() { # an installed uv that is new enough, else the one under .local, fetched with pip
  local python=$1 candidate
  for candidate in "$(command -v uv || true)" "$state/uv/bin/uv"; do
    if [[ -n $candidate ]] && "$candidate" pip install --help 2>/dev/null | grep -q -- --torch-backend; then
      echo "$candidate"
      return
    fi
  done
  "$python" -m pip --version >/dev/null 2>&1 \
    || fail "neither uv nor pip is there: install one of them (apt install python3-pip, or https://docs.astral.sh/uv)"
  say "fetching uv with pip into .local/uv" >&2
  # --target works without root, without ensurepip, and where the system's Python is externally managed.
  "$python" -m pip install --quiet --upgrade --target "$state/uv" uv >"$state/uv.log" 2>&1 \
    || fail "pip cannot fetch uv ($(tail -n 1 "$state/uv.log")): check the network or pip's index settings"
  echo "$state/uv/bin/uv"
}

pip_setting() { # value of a pip option from its environment variable or files; uv reads neither
  local python=$1 name=$2 variable
  variable=PIP_$(tr 'a-z-' 'A-Z_' <<<"$name")
  printf %s "${!variable:-$("$python" -m pip config get "global.$name" 2>/dev/null \
    || "$python" -m pip config get "install.$name" 2>/dev/null || true)}" | tr -s '[:space:]' ' '
}

adopt_pip_settings() {
  local python=$1 value
  value=$(pip_setting "$python" find-links) && [[ -n $value ]] && export UV_FIND_LINKS=${UV_FIND_LINKS:-${value// /,}}
  value=$(pip_setting "$python" index-url) && [[ -n $value ]] && export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$value}
  value=$(pip_setting "$python" cert) && [[ -n $value ]] && export SSL_CERT_FILE=${SSL_CERT_FILE:-$value}
  value=$(pip_setting "$python" extra-index-url)
  if [[ -n $value ]]; then
    export UV_INDEX=${UV_INDEX:-$value}
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} # as pip does: the best version of all indexes
  fi
}

# What torch 2.13.0 and vllm 0.32.0 for GPUs need, as gainrl_ray/devices.py has it; memory in MiB.
oldest_driver=580 least_capability=7.5 free_memory=4096

at_least() { # whether version $1 is $2 or newer
  [[ $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]
}

smi() { # fields of every GPU, a line each; fails where there is no driver, or one too old to know a field
  timeout 20 nvidia-smi "--query-gpu=$1" --format=csv,noheader,nounits 2>/dev/null
}

gpu_trouble() { # why the packages for GPUs cannot run on a machine whose nvidia-smi is there; nothing when they can
  local driver best
  driver=$(smi driver_version | head -n 1) || true
  if [[ ! $driver =~ ^[0-9]+ ]]; then
    echo "nvidia-smi fails: $(timeout 20 nvidia-smi 2>&1 | head -n 1 | cut -c1-160)"
  elif ((BASH_REMATCH[0] < oldest_driver)); then
    echo "the NVIDIA driver $driver is older than $oldest_driver, which CUDA 13 needs: update the driver"
  else
    best=$(smi compute_cap | sort -V | tail -n 1) || true
    if [[ $best =~ ^[0-9.]+$ ]] && ! at_least "$best" "$least_capability"; then
      echo "$(smi name | sort -u | paste -sd,) has compute capability $best, CUDA 13 needs $least_capability or more"
    fi
  fi
}

choose_extra() { # sets extra: cpu or gpu
  local trouble=''
  extra=${GAINRL_EXTRA:-}
  [[ -z $extra || $extra == cpu || $extra == gpu ]] || fail "GAINRL_EXTRA is $extra: accepted are cpu and gpu"
  if [[ $extra == cpu ]]; then return; fi
  if ! command -v nvidia-smi >/dev/null; then
    trouble="there is no nvidia-smi: install NVIDIA's driver, $oldest_driver or newer"
    if [[ -z $extra ]]; then extra=cpu; return; fi
  elif [[ ${CUDA_VISIBLE_DEVICES-all} =~ ^(|-1|NoDevFiles)$ ]]; then
    trouble="CUDA_VISIBLE_DEVICES hides all GPUs"
  else
    trouble=$(gpu_trouble)
  fi
  if [[ -n $trouble && $extra == gpu ]]; then fail "GAINRL_EXTRA=gpu, but $trouble; GAINRL_EXTRA=cpu runs on CPUs"; fi
  if [[ -n $trouble ]]; then
    say "no GPU is used, the packages are those for CPUs: $trouble"
    extra=cpu
  else
    extra=gpu
  fi
}

check_headers() { # ends unless Triton can compile for the interpreter $1 what launches its kernels
  "$1" -c 'import os, sys, sysconfig
scheme = sysconfig.get_default_scheme()
folder = sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]
sys.exit(not os.path.isfile(os.path.join(folder, "Python.h")))' \
    || fail "on a GPU Triton compiles at run time, and $1 has no Python.h:" \
    "apt install $("$1" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')," \
    "or set PYTHON to an interpreter that has it, or run on CPUs: GAINRL_EXTRA=cpu"
}

leave_out_gpus() { # hides from Ray, before it starts, the GPUs that cannot be used: all with the packages for CPUs
  local index capability total used name usable=() left_out=()
  if [[ $(cut -d' ' -f1 "$venv/.gainrl-setup") == cpu ]]; then
    export CUDA_VISIBLE_DEVICES=''
    return
  fi
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then return; fi
  while IFS=, read -r index capability total used name; do
    index=${index// /} name=${name# } total=${total// /} used=${used// /}
    if ! at_least "${capability// /}" "$least_capability"; then
      left_out+=("GPU $index ($name) is too old")
    elif [[ $total$used =~ ^[0-9]+$ ]] && ((total - used < free_memory || 4 * (total - used) < total)); then
      left_out+=("GPU $index has $((total - used)) of $total MiB free")
    else
      usable+=("$index")
    fi
  done < <(smi index,compute_cap,memory.total,memory.used,name)
  if ((${#left_out[@]})); then say "$(printf '%s; ' "${left_out[@]}")${#usable[@]} left to use"; fi
  if ((${#left_out[@]} && ${#usable[@]})); then
    export CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER=PCI_BUS_ID
    CUDA_VISIBLE_DEVICES=$(IFS=, && echo "${usable[*]}")
  fi
}

install_packages() {
  local uv=$1 extra=$2 index=https://download.pytorch.org/whl/cpu/
  local install=("$uv" pip install --python "$venv/bin/python" --editable ".[$extra]" --group dev)
  "${install[@]}" >"$state/install.log" 2>&1 && return
  if [[ $extra == cpu ]] && "$venv/bin/python" -c \
    "import urllib.request as r; r.urlopen(r.Request('${index}torch/', method='HEAD'), timeout=5)" 2>/dev/null; then
    say "torch+cpu is not where pip is configured to look: taking it from $index"
    "${install[@]}" --torch-backend cpu >"$state/install.log" 2>&1 && return
  fi
  tail -n 20 "$state/install.log" >&2
  fail "installing failed, see above and .local/install.log (torch+cpu comes from where pip looks, else from $index):" \
    "check the network and pip's settings, then run again"
}

set_up() { # packages for what choose_extra says, or for $1
  local python extra=${1:-} stamp have uv begin=$SECONDS
  command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null \
    || fail "a C++ compiler is needed (DeepSpeed builds its shared-memory collectives at first use): apt install g++"
  python=$(find_python)
  [[ -n $extra ]] || choose_extra
  [[ $extra == cpu ]] || check_headers "$python"
  stamp="$extra $({ cat "$root/pyproject.toml"; echo "$root"; "$python" --version; } | sha256sum | cut -c1-16)"
  have=$(cat "$venv/.gainrl-setup" 2>/dev/null || true)
  [[ $have == "$stamp" ]] && "$venv/bin/python" -c '' 2>/dev/null && return
  uv=$(find_uv "$python")
  adopt_pip_settings "$python"
  cd "$root"
  # The two extras ship the same modules under different names, so a change of extra starts afresh.
  if [[ ! -x $venv/bin/python || ${have:-$extra} != "$extra"* ]] \
    || ! cmp -s <("$python" --version) <("$venv/bin/python" --version); then
    if head_alive; then stop_head; fi # its processes run from what is replaced here
    say "making .venv with $("$python" --version)"
    "$uv" venv --quiet --clear --python "$python" "$venv" || fail "uv cannot make $venv: remove it and run again"
  fi
  say "installing the '$extra' packages into .venv (log: .local/install.log)"
  install_packages "$uv" "$extra"
  [[ $extra == gpu ]] || "$venv/bin/python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null \
    || fail "libnuma is needed (vLLM's CPU kernels link to it): apt install libnuma1, then run again"
  echo "$stamp" >"$venv/.gainrl-setup"
  say "installed in $((SECONDS - begin)) s"
}

# ---- the own Ray head ---------------------------------------------------------------------------------------------

birth() { # start time of a process in clock ticks, so that a recycled pid is not mistaken for the head
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) && cut -d' ' -f20 <<<"${stat##*) }"
}

answers() { # true when Ray's dashboard does
  "$venv/bin/python" -c "import urllib.request as r; r.urlopen('http://127.0.0.1:$1/api/version', timeout=5)" 2>/dev/null
}

head_alive() { # sets head_pid and head_port
  head_pid='' head_port=''
  read -r head_pid head_birth head_port 2>/dev/null <"$state/head" || return 1
  [[ -n $head_birth && $(birth "$head_pid") == "$head_birth" ]]
}

end_session() { # signals every process of the head's session
  local signal=$1 leader=$2 entry stat
  for entry in /proc/[0-9]*; do
    stat=$(cat "$entry/stat" 2>/dev/null) || continue
    [[ $(cut -d' ' -f4 <<<"${stat##*) }") == "$leader" ]] && kill "-$signal" "${entry#/proc/}" 2>/dev/null
  done
  return 0
}

stop_head() {
  if ! head_alive; then
    rm -f "$state/head"
    say "no Ray head of this checkout is running"
    return
  fi
  say "stopping this checkout's Ray head (pid $head_pid)"
  kill -TERM "$head_pid"
  for _ in {1..100}; do head_alive || break; sleep 0.2; done
  end_session KILL "$head_pid"
  rm -f "$state/head"
}

start_head() {
  if head_alive && answers "$head_port"; then return; fi
  if head_alive; then stop_head; fi
  # Closed here: the lock would be held for as long as the head lives.
  "$venv/bin/python" -m gainrl_ray.actors.ray_start "$state" "$temp" 9>&- || exit 1
}

use_ray() {
  local cluster=${RAY_API_SERVER_ADDRESS:-${RAY_ADDRESS:-}}
  if [[ -n $cluster ]]; then
    say "using the Ray cluster at $cluster"
    return
  fi
  # No token on the loopback interface. On a machine shared with people who must not run code as you, start a Ray with
  # RAY_AUTH_MODE=token yourself and name it in RAY_ADDRESS.
  export RAY_AUTH_MODE=disabled
  head_alive || leave_out_gpus
  locked start_head
  head_alive || fail "the Ray head has just ended: see .local/ray.log"
  export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$head_port
}

# ---- the job ------------------------------------------------------------------------------------------------------

job_result() { # exit status of job $1: its driver's, 143 when it was stopped, empty while it runs
  "$venv/bin/python" - "$1" <<'PY'
import sys
from ray.job_submission import JobSubmissionClient
job = JobSubmissionClient().get_job_info(sys.argv[1])
if job.status.is_terminal():
    print({"SUCCEEDED": 0, "STOPPED": 143}.get(job.status.value, job.driver_exit_code or 1))
PY
}

run_job() {
  local verb=$1 job environment follower result stopped='' color=auto
  shift
  job=gainrl-$verb-$(date +%Y%m%d-%H%M%S)-$$
  environment=$(CALLER=$caller "$venv/bin/python" -c 'import json, os
variables = {"GAINRL_CALLER_DIR": os.environ["CALLER"], "RAY_JOB_STOP_WAIT_TIME_S": "120"}
variables |= {name: os.environ[name] for name in ("GAINRL_CACHE_DIR",) if name in os.environ}
print(json.dumps({"env_vars": variables, "excludes": [".local/", ".git/", "runs/"]}))')
  cd "$root"
  [[ -t 1 ]] || color=false
  ray job submit --log-style pretty --log-color "$color" --submission-id "$job" --working-dir . \
    --runtime-env-json "$environment" -- python "jobs/$verb.py" "$@" 2>"$state/submit.log" &
  follower=$!
  trap 'stopped=130; say "stopping $job: it may take two minutes to commit its work"
    ray job stop --no-wait "$job" >/dev/null 2>&1 || kill "$follower" 2>/dev/null || true' INT TERM HUP
  while true; do
    while kill -0 "$follower" 2>/dev/null; do wait "$follower" || true; done
    [[ -n $stopped ]] && exit "$stopped"
    if ! result=$(job_result "$job" 2>/dev/null); then
      tail -n 5 "$state/submit.log" >&2
      fail "the job was not submitted, or its Ray has ended: see above and .local/submit.log, .local/ray.log"
    fi
    [[ -n $result ]] && exit "$result"
    ray job logs --follow "$job" & # the log stream broke while the job goes on
    follower=$!
  done
}

# ---- verbs --------------------------------------------------------------------------------------------------------

verb=${1:-}
[[ $# -gt 0 ]] && shift
if [[ $verb == test ]]; then # the suite's engines run on CPUs, which vLLM's build for GPUs cannot
  choose_extra
  if [[ $extra == gpu ]]; then venv=$state/venv-cpu; fi
fi
# Bytecode must be cached: otherwise every actor that starts compiles torch, vLLM and Ray anew.
unset PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH
export PATH=$venv/bin:$PATH VIRTUAL_ENV=$venv RAY_USAGE_STATS_ENABLED=0
export NO_PROXY=${NO_PROXY:+$NO_PROXY,}127.0.0.1,localhost no_proxy=${no_proxy:+$no_proxy,}127.0.0.1,localhost
case $verb in
  train | score | evaluate)
    locked set_up
    for argument in "$@"; do
      if [[ $argument == --help || $argument == -h ]]; then exec "$venv/bin/python" "$root/jobs/$verb.py" "$@"; fi
    done
    use_ray
    run_job "$verb" "$@"
    ;;
  test)
    locked set_up cpu
    cd "$root"
    say "running the tests"
    exec env -u RAY_ADDRESS RAY_AUTH_MODE=disabled CUDA_VISIBLE_DEVICES= "$venv/bin/python" -m pytest -q "$@"
    ;;
  stop) locked stop_head ;;
  -h | --help) usage ;;
  *)
    usage >&2
    [[ -n $verb ]] && printf '[local.sh] error: unknown verb: %s\n' "$verb" >&2
    exit 2
    ;;
esac
