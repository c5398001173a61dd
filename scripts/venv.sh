#!/bin/sh
# Creates the virtual environment and installs tfstyle into it, editable, with the extras given.
#
#   sh scripts/venv.sh FOLDER EXTRAS        e.g. sh scripts/venv.sh .venv dev,demo
#
# Takes $PYTHON if set, else python3 if it is 3.10 to 3.13, else the newest of python3.13 ..
# python3.10 that really starts (a launcher of a version manager may be there and not work).
set -eu

venv=$1
extras=$2
check='import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'

say() { echo "tfstyle: $*" >&2; }

if [ -x "$venv/bin/python" ] && "$venv/bin/python" -c "$check" 2>/dev/null &&
    "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "using the environment in $venv"
else
    found=
    no_venv=
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10}; do
        "$candidate" -c "$check" >/dev/null 2>&1 || continue
        if "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            found=$candidate
            break
        fi
        no_venv=${no_venv:-$candidate}
    done
    if [ -z "$found" ] && [ -n "$no_venv" ]; then
        version=$("$no_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "error: $no_venv (Python $version) cannot create virtual environments: its modules venv" \
            "and ensurepip are missing. On Debian or Ubuntu: sudo apt-get install python$version-venv"
        exit 1
    fi
    if [ -z "$found" ]; then
        say "error: Python 3.10, 3.11, 3.12 or 3.13 is needed and none was found" \
            "(looked for: ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10})." \
            "Install one, or name it: make test PYTHON=/path/to/python3.12"
        exit 1
    fi
    say "creating $venv with $("$found" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    rm -rf "$venv"
    "$found" -m venv "$venv"
fi

say "installing tfstyle[$extras] into $venv (the first time takes a few minutes and 2.5 GB of disk)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".[$extras]"
