#!/bin/sh
# Print a Python that this package supports, or one of the versions that are given, such as `find_python.sh 3.12`; on standard error, which one.
# The order is that of how well each is tested, not of their numbers.
# A command that exists may be a shim of pyenv that fails, so each candidate is run.
works() {
  "$1" -c "import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != ($2))" >/dev/null 2>&1
}

for version in ${*:-3.13 3.12 3.14}; do
  numbers=$(echo "$version" | tr . ,)
  roots=""
  if command -v pyenv >/dev/null 2>&1; then
    for installed in $(pyenv versions --bare 2>/dev/null | grep "^$version\." | sort -t. -k3nr); do
      roots="$roots $(pyenv root)/versions/$installed/bin/python"
    done
  fi
  if command -v uv >/dev/null 2>&1; then
    roots="$roots $(uv python find --no-python-downloads "$version" 2>/dev/null)"
  fi
  for candidate in "python$version" python3 python $roots; do
    if works "$candidate" "$numbers"; then
      found=$("$candidate" -c "import sys; print(sys.executable)")
      echo "Python $("$found" -c "import platform; print(platform.python_version())"): $found" >&2
      echo "$found"
      exit 0
    fi
  done
done
echo "No Python of ${*:-3.13 3.12 3.14} was found. Install one, for example with 'pyenv install 3.13', 'uv python install 3.13' or 'apt-get install python3.13-venv', or name yours: make PYTHON=/path/to/python3.13" >&2
exit 1
