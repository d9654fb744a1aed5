#!/usr/bin/env bash
# Checks the library on a machine with CUDA, and leaves JSON and logs in a directory. See `usage` below.
set -u

usage() {
    cat <<'USAGE'
Usage: gpu_check.sh DIR [--backbone NAME_OR_PATH] [--data_dir DIRECTORY] [--dry_run]

Runs on a machine with CUDA, one after the other:
  tests       pytest -m gpu
  train_step  examples/benchmarks/train_step.py, small batches
  ranking     examples/benchmarks/ranking.py, few users
  table_2     examples/reproduce_paper.py: Table 2 on MovieLens-100K, for three LLMs and two baselines, with few
              training examples and few rows to rank. It shows that everything works, and not how good a method is.

DIR must be new or empty. It gets NAME.log for each step, the JSON of the benchmarks and of Table 2, and summary.json:
the command, exit status and seconds of each step, and the name of the device. A step that fails does not stop the
others. The exit status is 0 if all steps succeeded, 1 if one failed, and 2 if the script was called wrongly.

  --backbone  A backbone for Table 2, at the scale "paper". Default: PATCHREC_BACKBONE, or else a small, new backbone at
              the scale "laptop".
  --data_dir  MovieLens-100K, raw or prepared. Default: PATCHREC_ML100K_DIR, or else it is downloaded.
  --dry_run   Needs no GPU: prints each command, checks that its script takes its options, collects the tests, and
              makes a dry run of Table 2.

PYTHON names the Python to use; the default is python. The package of this checkout is used.
USAGE
}

fail() {
    printf 'gpu_check.sh: %s\n' "$1" >&2
    printf 'Run gpu_check.sh --help to see the usage.\n' >&2
    exit 2
}

directory="" is_dry=0 backbone=${PATCHREC_BACKBONE:-} data_dir=${PATCHREC_ML100K_DIR:-}
while [ $# -gt 0 ]; do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --dry_run) is_dry=1 ;;
        --backbone | --data_dir)
            case ${2:-} in
                "" | --*) fail "$1 needs a value." ;;
            esac
            if [ "$1" = --backbone ]; then backbone=$2; else data_dir=$2; fi
            shift
            ;;
        -*) fail "There is no option $1." ;;
        *)
            [ -z "$directory" ] || fail "Pass one directory; got $directory and $1."
            directory=$1
            ;;
    esac
    shift
done
[ -n "$directory" ] || fail "Pass the directory for the results, as in: gpu_check.sh outputs/gpu_check"
if [ -e "$directory" ] && [ ! -d "$directory" ]; then
    fail "$directory is a file. Pass a new or an empty directory."
fi
if [ -n "$(ls -A -- "$directory" 2>/dev/null)" ]; then
    fail "$directory is not empty. Pass a new or an empty directory, so that no earlier results are mixed with these."
fi
if [ -n "$data_dir" ] && [ ! -e "$data_dir" ]; then
    fail "There is no $data_dir with MovieLens-100K. Correct --data_dir or PATCHREC_ML100K_DIR, or leave out both."
fi

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd) || exit 2
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
python=${PYTHON:-python}
command -v -- "$python" >/dev/null || fail "There is no program $python. Let PYTHON name the Python to use."
device=$("$python" -c 'import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else "")') ||
    fail "$python cannot import torch. Install the library first, or let PYTHON name another Python."
if [ -z "$device" ] && [ "$is_dry" = 0 ]; then
    fail "torch finds no CUDA device. Pass --dry_run to see what would run."
fi
mkdir -p -- "$directory" || fail "$directory cannot be made."
directory=$(cd -- "$directory" && pwd) || exit 2

# Adds a step to summary.json, which is written anew after each step.
record() { # NAME STATUS SECONDS COMMAND...
    "$python" - "$directory/summary.json" "$device" "$is_dry" "$@" <<'RECORD'
import json
import sys
from pathlib import Path

path, device, is_dry, name, status, seconds, *command = sys.argv[1:]
path = Path(path)
if path.exists():
    summary = json.loads(path.read_text(encoding="utf-8"))
else:
    summary = {"device": device or None, "dry_run": is_dry == "1", "steps": []}
log = f"{name}.log"
step = {"name": name, "command": command, "rc": int(status), "seconds": int(seconds), "log": log}
summary["steps"].append(step)
path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
RECORD
}

# Checks that a script exists and that its help names each option of a command.
check_options() { # PYTHON SCRIPT OPTION...
    local script=$2 argument help status=0
    if [ ! -f "$script" ]; then
        printf 'There is no %s.\n' "$script"
        return 1
    fi
    help=$("$1" "$script" --help) || return 1
    shift 2
    for argument in "$@"; do
        case $argument in
            --*)
                if ! grep -qE -- "(^|[^[:alnum:]_-])$argument([^[:alnum:]_-]|\$)" <<<"$help"; then
                    printf '%s does not take %s.\n' "$script" "$argument"
                    status=1
                fi
                ;;
        esac
    done
    return "$status"
}

num_steps=4 number=0 failed=()
run_step() { # NAME COMMAND...
    local name=$1 start=$SECONDS status=0 seconds
    shift
    number=$((number + 1))
    printf '%s of %s: %s\n' "$number" "$num_steps" "$name"
    printf '%q ' "$@" | tee "$directory/$name.log"
    printf '\n' | tee -a "$directory/$name.log"
    if [ "$is_dry" = 0 ]; then
        "$@" >>"$directory/$name.log" 2>&1 || status=$?
    elif [ "$name" = tests ]; then
        "$@" --collect-only -q >>"$directory/$name.log" 2>&1 || status=$?
    else
        check_options "$@" >>"$directory/$name.log" 2>&1 || status=$?
        if [ "$name" = table_2 ] && [ "$status" = 0 ]; then
            "$@" --dry_run >>"$directory/$name.log" 2>&1 || status=$?
        fi
    fi
    seconds=$((SECONDS - start))
    record "$name" "$status" "$seconds" "$@" || exit 1
    if [ "$status" = 0 ] && [ "$is_dry" = 1 ]; then
        printf '%s: checked in %s s, not run.\n' "$name" "$seconds"
    elif [ "$status" = 0 ]; then
        printf '%s took %s s.\n' "$name" "$seconds"
    else
        failed+=("$name")
        printf '%s failed with status %s after %s s. The end of %s:\n' "$name" "$status" "$seconds" "$directory/$name.log"
        tail -n 20 -- "$directory/$name.log"
    fi
}

work=$directory/work
run_step tests "$python" -m pytest -c "$root/pyproject.toml" --rootdir "$root" -p no:cacheprovider -m gpu "$root/tests"
run_step train_step "$python" "$root/examples/benchmarks/train_step.py" --quick --device cuda \
    --json "$directory/train_step.json" --output_dir "$work/train_step"
run_step ranking "$python" "$root/examples/benchmarks/ranking.py" --quick --device cuda \
    --json "$directory/ranking.json" --output_dir "$work/ranking"

table_2=("$python" "$root/examples/reproduce_paper.py" --table 2 --dataset ml-100k --num_examples 2000
    --max_eval_rows 100 --output_dir "$directory/table_2")
if [ -n "$backbone" ]; then
    table_2+=(--scale paper --backbone "$backbone")
else
    table_2+=(--scale laptop)
fi
if [ -n "$data_dir" ]; then
    table_2+=(--data_dir "$data_dir")
fi
run_step table_2 "${table_2[@]}" --methods Popularity CoVisitation Vanilla PatchRec-I PatchRec-S

if [ "${#failed[@]}" -gt 0 ]; then
    printf 'Failed: %s. See %s.\n' "${failed[*]}" "$directory/summary.json"
    exit 1
fi
if [ "$is_dry" = 1 ]; then
    printf 'All steps could run; none has run. See %s.\n' "$directory/summary.json"
    exit 0
fi
printf 'All steps succeeded. See %s.\n' "$directory/summary.json"
