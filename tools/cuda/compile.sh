#!/bin/bash
# Runs nvcc with a host compiler that it supports, so that the result does not depend on where or when it runs.
#
# usage: compile.sh NVCC HOST_COMPILER OLDEST NEWEST ARGUMENT...
# OLDEST and NEWEST are the major versions of gcc that this nvcc takes.
set -euo pipefail

nvcc=$1 host=$2 oldest=$3 newest=$4
shift 4

refuse() {
  echo "error: $*; name another compiler by --//tools/cuda:host_compiler=PATH" >&2
  exit 1
}

[[ -x $host ]] || refuse "the host C++ compiler $host does not exist"
version=$("$host" -dumpfullversion -dumpversion)
major=${version%%.*}
[[ $major =~ ^[0-9]+$ ]] && ((major >= oldest && major <= newest)) ||
  refuse "the host C++ compiler $host is version $version; this nvcc takes gcc $oldest to $newest"

# Left to itself, nvcc names its intermediate files after its process, and those names end up in the symbol table.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$nvcc" --compiler-bindir "$host" --keep --keep-dir "$scratch" "$@"
