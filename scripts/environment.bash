# SPDX-License-Identifier: Apache-2.0
# Sourced by the other scripts: owns the making and refreshing of `.venv`, and nothing that runs in it.
#
# `ensure_environment run|test` leaves a `.venv` that holds what setup.py asks for (what calls need, too), in the
# versions of constraints.txt; `test` adds the tools of the tests. It does nothing when a stamp of the same inputs is
# there.
# Sets: root (the checkout), python (the interpreter of .venv).

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
# The caller reads it.
# shellcheck disable=SC2034
python=$venv/bin/python

say() { printf '%s\n' "$*" >&2; }

# The first interpreter of at least 3.11: $PYTHON if set, else the usual names.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return 0
    fi
  done
  say "Python 3.11 or newer is needed and was not found. On Debian: apt-get install python3 python3-venv"
  say "Another interpreter can be named: PYTHON=/path/to/python3.12 $0"
  return 1
}

# Debian splits ensurepip off into python3-venv, so a plain `python3 -m venv` may fail where `venv` itself is there.
make_venv() {
  local base=$1 major_minor
  if "$base" -c 'import ensurepip, venv' 2>/dev/null && "$base" -m venv --clear "$venv" >/dev/null; then
    return 0
  fi
  # A pip outside the environment can install one inside it (pip ≥ 22.3 knows --python).
  if "$base" -m pip --python "$base" --version >/dev/null 2>&1 &&
    "$base" -m venv --clear --without-pip "$venv" >/dev/null &&
    "$base" -m pip --quiet --disable-pip-version-check --python "$venv/bin/python" install pip; then
    return 0
  fi
  major_minor=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing Debian's python3-venv…"
    if { apt-get install -y -qq "python$major_minor-venv" ||
      { apt-get update -qq && apt-get install -y -qq "python$major_minor-venv"; }; } >/dev/null 2>&1 &&
      "$base" -m venv --clear "$venv" >/dev/null; then
      return 0
    fi
  fi
  rm -rf "$venv"
  say "$base cannot make a virtual environment: it has neither ensurepip nor pip."
  say "Install one of them and run this again. On Debian: sudo apt-get install python$major_minor-venv"
  return 1
}

# What the environment depends on: the declared needs, their versions, and where it stands (paths are baked in).
stamp_of_inputs() {
  { cat "$root/setup.py" "$root/scripts/constraints.txt" && printf '%s\n' "$root"; } | sha256sum | cut -d ' ' -f 1
}

stamped() { [ "$(cat "$venv/.stamp-$1" 2>/dev/null)" = "$2" ] && [ -x "$venv/bin/python" ]; }

refresh_environment() {
  local level=$1 stamp=$2 extra='[calls]' base log
  [ "$level" = run ] || extra="[calls,$level]"
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    base=$(find_python) || return 1
    say "creating .venv with $base (once)…"
    make_venv "$base" || return 1
  fi
  say "installing what Lares needs into .venv (about 30 s)…"
  log=$venv/install.log
  # setuptools comes first and by version, and the build may then use it: nothing is fetched unpinned.
  if ! {
    "$venv/bin/python" -m pip install --disable-pip-version-check -c "$root/scripts/constraints.txt" setuptools &&
      "$venv/bin/python" -m pip install --disable-pip-version-check -c "$root/scripts/constraints.txt" \
        --no-build-isolation --editable "$root$extra"
  } >"$log" 2>&1; then
    say "installing failed; the end of $log:"
    tail -n 15 "$log" >&2
    return 1
  fi
  [ "$level" = run ] || printf '%s\n' "$stamp" >"$venv/.stamp-run"
  printf '%s\n' "$stamp" >"$venv/.stamp-$level"
}

# The lock file stands beside .venv, not in it, because .venv may be made anew while others wait.
ensure_environment() {
  local level=$1 stamp
  stamp=$(stamp_of_inputs)
  stamped "$level" "$stamp" && return 0
  (
    flock --nonblock 9 || { say "waiting for another script that is making .venv…"; flock 9; }
    stamped "$level" "$stamp" || refresh_environment "$level" "$stamp"
  ) 9>"$root/.venv.lock"
}
