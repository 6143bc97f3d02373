#!/bin/sh
# Every check that runs no test: what `make lint` runs, from the repository's root, in an environment that
# `make setup` made. All parts run; the exit status says whether one failed.
set -eu

bin=.venv/bin
failed=
log=$(mktemp)
trap 'rm -f "$log"' EXIT

part() {
    name=$1
    shift
    if "$@" >"$log" 2>&1; then
        echo "ok      $name"
        # mypy says at length that all is well; these two say what they could not check.
        case $name in "requirement sets" | "known vulnerabilities") sed 's/^/        /' "$log" ;; esac
    else
        echo "FAILED  $name"
        sed 's/^/        /' "$log"
        failed=yes
    fi
}

# The npm package holds the one binary; it stays in .cache.
buf_lint() {
    if [ "$(uname -sm)" != "Linux x86_64" ] || ! command -v npm >/dev/null 2>&1; then
        echo "left out buf lint: it needs npm on x86-64 Linux"
        return
    fi
    package=@bufbuild/buf-linux-x64
    buf=.cache/buf/node_modules/$package/bin/buf
    if [ ! -x "$buf" ] && ! npm install --prefix .cache/buf --no-save --no-fund --no-audit --loglevel=error "$package@1.75.0" >"$log" 2>&1; then
        echo "left out buf lint: npm could not fetch $package ($(tail -n 1 "$log"))"
        return
    fi
    part "buf lint" "$buf" lint protos
}

# Unfinished work and unsafe calls in the code; paths of somebody's own machine anywhere.
forbidden_strings() {
    code='TODO|FIXME|XXX|NotImplementedError|import pickle|pickle\.load|shell=True|breakpoint\(\)'
    own_paths='/Users/[a-z]|/root/|^<<<<<<< |BEGIN [A-Z ]*PRIVATE KEY'
    status=0
    git grep -nE "$code" -- xopd services examples bench tools ':!tools/lint.sh' ':!xopd/v1' && status=1
    git grep -nIE "$own_paths" -- . ':!tools/lint.sh' ':!*Dockerfile*' && status=1
    case $PWD in
        /*/*) git grep -nIF "$PWD/" -- . && status=1 ;;
    esac
    return $status
}

part "ruff check" $bin/ruff check --quiet .
part "ruff format" $bin/ruff format --check --quiet .
part "mypy" $bin/mypy
part "mypy of the tools" env MYPYPATH=requirements:tools $bin/mypy requirements/lock.py tools/*.py
part "imports" $bin/lint-imports --no-cache
buf_lint
part "generated code" $bin/python tools/protos.py --check
part "bandit" $bin/bandit --quiet --configfile pyproject.toml --recursive xopd services examples bench tools requirements
part "known vulnerabilities" $bin/python tools/audit.py
part "requirement sets" $bin/python requirements/lock.py --check
if git rev-parse --git-dir >/dev/null 2>&1; then
    part "forbidden strings" forbidden_strings
else
    echo "left out the forbidden strings: this is not a git checkout"
fi
[ -z "$failed" ]
