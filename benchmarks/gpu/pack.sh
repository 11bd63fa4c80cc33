#!/usr/bin/env bash
# What a borrowed card's machine lacks: wheels (for Python 3.12, Linux, x86-64) and data, in a
# folder. pack.sh FOLDER DATA
set -euo pipefail
folder=$1 data=$2
constraints=$(dirname "${BASH_SOURCE[0]}")/../../constraints.txt
mkdir -p "$folder/wheels" "$folder/data"
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 \
  -c "$constraints" -d "$folder/wheels" \
  datasets dill multiprocess tyro docstring-parser typeguard cattrs jaxopt
cp -r "$data/cifar10" "$data/mnist" "$folder/data/"
cp "$data/rcig_authors_cifar10_1ipc.npz" "$folder/data/" || echo "without the authors' set"
du -sh "$folder"
