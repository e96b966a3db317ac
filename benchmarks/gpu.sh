#!/bin/bash
# All that is timed on a GPU, in under nine minutes, on a machine that reaches no network:
#
#     benchmarks/gpu.sh [FOLDER]        writes extract-gpu.md, fusion-gpu.txt and search-gpu.md [default: benchmarks/results]
#
# drexcache must be installed there (pip install --no-deps --no-build-isolation -e . where its needs are). PYTHON names
# the interpreter. What a benchmark had printed when its time was up is kept.
set -uo pipefail
cd "$(dirname "$0")/.."
into=${1:-benchmarks/results}
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1
mkdir -p "$into"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "no GPU that torch can use"; exit 1; }

failed=0
timed() { # FILE SECONDS SCRIPT [OPTIONS]
    timeout "$2" "$python" "${@:3}" > "$into/$1" && return
    echo "$3: ended with status $? (124: after $2 s), see $into/$1" >&2
    failed=1
}
timed extract-gpu.md 240 benchmarks/extract.py
timed fusion-gpu.txt 120 benchmarks/fusion.py
timed search-gpu.md 150 benchmarks/search.py --rows 6720 --device cuda
exit $failed
