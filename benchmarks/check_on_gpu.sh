#!/usr/bin/env bash
# Everything that only a GPU can tell, in one call of under ten minutes: build, tests, sanitizers, the table.
#   benchmarks/check_on_gpu.sh [build|test|large|sanitize|bench ...]      all of them by default
# Results go to $OUT, or to ./gpu-results. Needs a CUDA build of torch, nvcc, pybind11, ninja and pytest; no network.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-gpu-results}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD MAX_JOBS=${MAX_JOBS:-16}
python=${PYTHON:-python3}
steps=("$@")
[ $# -gt 0 ] || steps=(build test large bench sanitize)

failed=()
run() {  # name of its log, command: the end of what it prints, all of it in the log
  "${@:2}" > "$out/$1.log" 2>&1 || failed+=("$1")
  tail -n 50 "$out/$1.log"
}
for step in "${steps[@]}"; do
  echo "== $step at $SECONDS s"
  case $step in
    build) FACEATTR_CUDA=1 run build $python setup.py build_ext --inplace ;;
    test) run test make test-gpu PYTEST="$python -m pytest" ;;
    large) FACEATTR_REQUIRE_CUDA=1 run large $python -m pytest -m "gpu and large" tests/cuda ;;
    bench)
      run bench timeout 300 $python benchmarks/on_gpu.py --output "$out/RESULTS-cuda.md" --batches 32 256 \
        --precisions float32 bfloat16 --no-compile --shapes C3 C4 "96->128" "64->64" unshared
      ;;
    sanitize) run sanitize timeout 200 make test-gpu-sanitize PYTEST="$python -m pytest" ;;
    *)
      echo "$0: no step $step; there are build, test, large, bench and sanitize" >&2
      exit 2
      ;;
  esac
done
echo "== done at $SECONDS s; failed: ${failed[*]:-nothing}"
[ ${#failed[@]} -eq 0 ]
