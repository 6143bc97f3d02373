#!/bin/sh
# Make .venv with everything for a machine without a GPU: what `make setup` runs, from the repository's root.
# Instant when nothing changed, safe to interrupt and run again. Wants no root.
#   PYTHON    the interpreter to build on (default: the first of python3.11, python3.12, python3 that fits)
#   PIP_ARGS  more arguments for pip, for example your own index
set -eu

venv=.venv
stamp=$venv/.xopd-setup
log=$venv/setup.log
unfinished=$venv/.unfinished
requirements=requirements/all-cpu.txt
packages=". services/rollout services/teacher services/trainer"
export PIP_DISABLE_PIP_VERSION_CHECK=1

fail() {
    echo "set-up: $*" >&2
    exit 2
}

fingerprint() {
    cat "$requirements" pyproject.toml services/*/pyproject.toml tools/setup.sh | cksum
    pwd
}

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 was found (tried: ${PYTHON:-python3.11 python3.12 python3}): install one, or name yours with make setup PYTHON=/path/to/python3.12"
}

make_venv() {
    if "$venv/bin/python" -c 'import pip, sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null; then
        return
    fi
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv module: install it (Debian: apt install python3-venv) and run make setup again"
    echo "set-up 1/4: $("$python" --version) into $venv"
    "$python" -m venv --clear "$venv"
}

# ttspico, the speech synthesiser, comes as C source.
check_compiler() {
    "$venv/bin/python" -c 'import ttspico' 2>/dev/null && return
    compiler=
    for candidate in ${CC:-cc gcc clang}; do
        command -v "$candidate" >/dev/null 2>&1 && compiler=$candidate && break
    done
    [ -n "$compiler" ] ||
        fail "no C compiler was found, and the speech synthesiser ttspico is built from source: install gcc (Debian: apt install gcc) and run make setup again"
    "$venv/bin/python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        fail "Python's C headers were not found, and the speech synthesiser ttspico is built from source: install them (Debian: apt install python3-dev) and run make setup again"
}

# Where the index has only a CUDA build of torch, its libraries come too: without them it cannot be imported.
check_torch() {
    pin=$(grep '^torch==' "$requirements")
    if "$venv/bin/python" -c "import sys, torch; sys.exit('torch==' + torch.__version__.split('+')[0] != '$pin')" 2>/dev/null; then
        return
    fi
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --quiet --dry-run --no-deps --ignore-installed --report "$venv/torch.json" ${PIP_ARGS:-} "$pin" >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        fail "pip finds no $pin for this machine (the lines above are pip's)"
    }
    if ! "$venv/bin/python" - "$venv/torch.json" <<'PYTHON'; then
import json, sys
torch = json.load(open(sys.argv[1]))["install"][0]["metadata"]
sys.exit(any(each.startswith(("nvidia-", "cuda-")) for each in torch.get("requires_dist", [])))
PYTHON
        echo "           torch: pip's index has the CUDA build, so its libraries come too (about 3 GB more;"
        echo "           make setup PIP_ARGS='--extra-index-url URL' with PyTorch's CPU index spares them)"
        torch_libraries="-r requirements/torch-cuda.txt"
    fi
}

# pip with its output in the log, and one line for every 25 packages that it has found.
run_pip() {
    rm -f "$venv/pip.failed"
    # shellcheck disable=SC2086
    { "$venv/bin/python" -m pip install --no-deps --progress-bar off ${PIP_ARGS:-} "$@" 2>&1 || touch "$venv/pip.failed"; } |
        tee -a "$log" |
        while IFS= read -r line; do
            case $line in
                Collecting* | Processing* | "Requirement already"*)
                    count=$((${count:-0} + 1))
                    [ $((count % 25)) -ne 0 ] || echo "           $count"
                    ;;
                Installing*) echo "           unpacking" ;;
            esac
        done
    if [ -e "$venv/pip.failed" ]; then
        tail -n 12 "$log" >&2
        fail "pip failed: the lines above are its last, the rest is in $log; run make setup again once that is mended"
    fi
}

if [ -e "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
    exit 0
fi
make_venv
: >"$log"
torch_libraries=
check_compiler
check_torch
echo "set-up 2/4: $(grep -c == "$requirements") pinned packages, about 0.6 GB to download (one to four minutes)"
# An earlier pip that was stopped may have left a package half unpacked, which the next pip takes for whole.
again=
[ ! -e "$unfinished" ] || again=--force-reinstall
touch "$unfinished"
# shellcheck disable=SC2086
run_pip $again -r "$requirements" $torch_libraries
rm "$unfinished"
echo "set-up 3/4: xopd and its three services"
editable=
for package in $packages; do editable="$editable -e $package"; done
# shellcheck disable=SC2086
run_pip --no-build-isolation $editable
echo "set-up 4/4: imports"
"$venv/bin/python" - <<'PYTHON' || fail "an import failed (above)"
import importlib
for name in ("torch", "transformers", "grpc", "redis", "ttspico", "xopd", "xopd_rollout", "xopd_teacher", "xopd_trainer"):
    importlib.import_module(name)
PYTHON
fingerprint >"$stamp"
echo "set-up: done"
