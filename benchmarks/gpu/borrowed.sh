#!/usr/bin/env bash
# on_a_gpu.py where nothing may be fetched, with what pack.sh put into a folder.
# borrowed.sh FOLDER [arguments of on_a_gpu.py]
set -euo pipefail
folder=$1
shift
site=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
  --target "$site" "$folder"/wheels/*.whl
PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 \
  python3 "$(dirname "${BASH_SOURCE[0]}")/../on_a_gpu.py" --data "$folder/data" "$@"
