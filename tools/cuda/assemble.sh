#!/bin/bash
# Merges unpacked CUDA wheels into one toolkit that nvcc finds its way in, and prints nvcc's version.
#
# usage: assemble.sh ROOT WHEEL_FOLDER...
# Every wheel holds its share under site/nvidia/cu13/; nvcc.profile finds the compilers by itself.
set -euo pipefail

root=$1
shift
mkdir -p "$root"
for wheel in "$@"; do
  cp -a --no-preserve=ownership "$wheel"/site/nvidia/cu13/. "$root"/
done
find "$root" -name __pycache__ -prune -exec rm -rf {} +

# A wheel keeps no execute bits for some of them, links for none, and calls lib64 lib.
chmod -R a+rX "$root"
chmod a+x "$root"/bin/* "$root"/nvvm/bin/*
ln -sfn lib "$root/lib64"
for library in "$root"/lib/*.so.*; do
  name=$(basename "$library")
  ln -sfn "$name" "$root/lib/${name%%.so*}.so"
done

"$root/bin/nvcc" --version | sed -n 's/^Cuda compilation tools, release .*, V/nvcc /p'
