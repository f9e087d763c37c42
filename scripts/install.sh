#!/bin/sh
# Install packages into an environment and report the time: `install.sh VENV PIP_ARGUMENTS`
set -e
environment=$1
shift
started=$(date +%s)
"$environment/bin/python" -m pip install -q "$@"
echo "installed $* into $environment in $(($(date +%s) - started)) s" >&2
