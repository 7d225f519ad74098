#!/bin/bash
# Lists the CPython 3.11 interpreters of this machine that the build can copy, best first.
#
#   stdout, one line each:  EXECUTABLE <tab> VERSION <tab> KIND <tab> ORIGIN
#   stderr, one line each:  why a candidate was passed over
#
# KIND is "shared" (libpython is a library) or "static" (it is in the executable). ORIGIN is the folder that a
# sandbox can hide to prove that the copy does not lean on it: the installation's prefix, or, for a prefix that
# holds the whole system, its standard library.
#
# SUBQUAD_PYTHON names the interpreter to use; then no other is looked at.
set -uo pipefail

candidates() {
  if [[ -n ${SUBQUAD_PYTHON:-} ]]; then
    echo "$SUBQUAD_PYTHON"
    return
  fi
  type -ap python3.11 python3
  printf '%s\n' /usr/bin/python3.11 /usr/local/bin/python3.11 /opt/*/bin/python3.11 \
    "${PYENV_ROOT:-${HOME:-/}/.pyenv}"/versions/3.11*/bin/python3.11 \
    "${HOME:-/}"/.local/share/uv/python/cpython-3.11*/bin/python3.11
}

# Asks an interpreter what it is; a virtual environment answers with the installation it was made from.
describe='
import glob, os, sys, sysconfig
version = "%d.%d.%d" % sys.version_info[:3]
if sys.implementation.name != "cpython" or sys.version_info[:2] != (3, 11):
    sys.exit("it is %s %s, not CPython 3.11" % (sys.implementation.name, version))
library = os.path.dirname(os.path.realpath(os.__file__))
wheels = [library + "/ensurepip/_bundled", library + "/ensurepip", sysconfig.get_config_var("WHEEL_PKG_DIR") or "",
          "/usr/share/python-wheels"]
if not any(glob.glob(folder + "/pip-*.whl") for folder in wheels if folder):
    sys.exit("it has no ensurepip (on Debian: apt-get install python3.11-venv)")
# Debian builds both kinds from one configuration, so only the running process tells which one this is.
kind = "shared" if "/libpython3.11.so" in open("/proc/self/maps").read() else "static"
prefix = os.path.realpath(sys.base_prefix)
home = os.path.realpath(os.path.expanduser("~"))
system = prefix in ("/", "/usr", "/usr/local", home, home + "/.local")
executable = os.path.realpath(os.path.join(prefix, "bin", "python3.11"))
print(executable, version, kind, library if system else prefix, sep="\t")
'

declare -A seen=()
while read -r candidate; do
  if [[ ! -x $candidate ]]; then
    [[ -n ${SUBQUAD_PYTHON:-} ]] && echo "$candidate: there is no such executable" >&2
    continue
  fi
  if answer=$("$candidate" -I -c "$describe" 2>&1); then
    [[ -n ${seen[$answer]:-} ]] || echo "$answer"
    seen[$answer]=1
  else
    echo "$candidate: ${answer##*$'\n'}" >&2
  fi
done < <(candidates)
