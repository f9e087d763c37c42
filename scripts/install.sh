#!/bin/sh
# Install packages into an environment, `install.sh VENV ARGUMENTS OF PIP`, and say how long that took.
set -e
environment=$1
shift
started=$(date +%s)
"$environment/bin/python" -m pip install -q "$@"
echo "installed $* into $environment in $(($(date +%s) - started)) s" >&2
