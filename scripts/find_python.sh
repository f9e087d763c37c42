#!/bin/sh
# Print the path of a supported Python, or of one of the given versions: `find_python.sh 3.12`.
# Its version is printed to standard error. Versions are ordered by how well they are tested.
# Each candidate is run, because a command may be a pyenv shim that fails.
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
echo "No Python ${*:-3.13 3.12 3.14} was found. Install one, for example with" \
  "'pyenv install 3.13', 'uv python install 3.13' or 'apt-get install python3.13-venv'," \
  "or pass its path: make PYTHON=/path/to/python3.13" >&2
exit 1
