#!/bin/bash
# Starts one Python program on the relocated interpreter. The rules in rules.bzl fill in the @@NAMES@@.
#
# Child processes that are started with sys.executable see the same modules, since PYTHONPATH is in the environment;
# neither the caller's folder, nor the script's, nor the user's site-packages are on it.
set -eu

if [[ -d $0.runfiles ]]; then
  runfiles=$0.runfiles
elif [[ $0 == *.runfiles/* ]]; then
  runfiles=${0%%.runfiles/*}.runfiles
else
  runfiles=${RUNFILES_DIR:?has to name the runfiles folder of $0}
fi
[[ $runfiles == /* ]] || runfiles=$PWD/$runfiles

unset PYTHONHOME PYTHONSTARTUP
PYTHONPATH=
for folder in @@IMPORTS@@; do
  PYTHONPATH+=${PYTHONPATH:+:}$runfiles/$folder
done
export PYTHONPATH PYTHONDONTWRITEBYTECODE=1 PYTHONNOUSERSITE=1 PYTHONSAFEPATH=1 RUNFILES_DIR=$runfiles TEST_WORKSPACE=@@WORKSPACE@@
@@EXPORTS@@
exec "$runfiles"/@@INTERPRETER@@ "$runfiles"/@@MAIN@@ "$@"
