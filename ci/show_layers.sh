#!/bin/bash
# Shows that Bazel refuses a dependency that the layer table does not allow: a target of `ops` that needs `modules`.
#
# It writes a throw-away BUILD file below packages/ops, builds it and expects the refusal. Bazel does not run inside
# Bazel, so this is no test target; run it by hand after a change to packages/BUILD.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

probe=packages/ops/layer_probe
trap 'rm -rf "$probe"' EXIT
mkdir "$probe"
cat >"$probe/BUILD" <<'BUILD'
load("//tools/python:defs.bzl", "py_library")

py_library(
    name = "probe",
    deps = ["//packages/modules"],
)
BUILD

if answer=$(./bazelw build --nobuild "//$probe:probe" 2>&1); then
  echo "FAILED: //packages/ops was allowed to depend on //packages/modules"
  exit 1
fi
grep 'is not visible from' <<<"$answer" || { tail -n 5 <<<"$answer"; echo "FAILED for another reason"; exit 1; }
echo "refused, as the layer table asks"
