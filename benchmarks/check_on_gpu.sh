#!/usr/bin/env bash
# Everything that only a GPU can tell, in one call of under ten minutes, the most valuable answers first:
#   bash benchmarks/check_on_gpu.sh
# Each step has its own limit and goes on whatever failed before. Needs a CUDA build of torch and, where faceattr/ holds no
# library that loads, nvcc, pybind11 and ninja; no make, no network. Results, at most eight files, go to $OUT, or to
# ./gpu-results: all.txt holds what every step printed. LIMIT: seconds for everything.
cd "$(dirname "$0")/.." || exit 2
out=${OUT:-gpu-results} logs=$(mktemp -d) python=${PYTHON:-python3}
mkdir -p "$out"
rm -f "$out/all.txt"
export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD FACEATTR_REQUIRE_CUDA=1
export MAX_JOBS=${MAX_JOBS:-16} TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
end=$((SECONDS + ${LIMIT:-560}))
failed=()
exec 2>&1

step() {  # name, most seconds, lines to show, command
  local name=$1 lines=$3 start=$SECONDS code most
  most=$(($2 < end - SECONDS ? $2 : end - SECONDS))
  if [ "$most" -lt "${LEAST:-5}" ]; then
    echo "== $name: no time left" | tee -a "$out/all.txt"
    failed+=("$name")
    return 1
  fi
  timeout -k 3 "$most" "${@:4}" > "$logs/$name" 2>&1
  code=$?
  echo "== $name: exit status $code, $((SECONDS - start)) s, at $SECONDS s" | tee -a "$out/all.txt"
  cat "$logs/$name" >> "$out/all.txt"
  tail -n "$lines" "$logs/$name"
  [ $code -eq 0 ] || failed+=("$name")
  return $code
}

side_by_side() {  # commands: each to its own log, all of them shown; fails if one does
  local i=0 pids=() code=0 pid command
  for command in "$@"; do
    bash -c "exec $command" > "$logs/part-$i" 2>&1 &
    pids+=($!)
    i=$((i + 1))
  done
  for pid in "${pids[@]}"; do wait "$pid" || code=1; done
  while [ $i -gt 0 ]; do i=$((i - 1)) && cat "$logs/part-$i"; done
  return $code
}
export -f side_by_side
export logs

step machine 20 5 nvidia-smi --query-gpu=name,driver_version,clocks.max.sm,power.limit --format=csv,noheader

# 1. A library that loads, or one built here, the extensions side by side.
loads='import torch, faceattr.ops as o
x, w = torch.randn(1, 4, 6, 6, device="cuda"), torch.randn(2, 2, 4, 4, 3, 3, device="cuda")
o.locally_shared_conv2d(x, w), torch.cuda.synchronize()
print(torch.__version__, torch.cuda.get_device_name())'
if ! step load 45 4 "$python" -c "$loads"; then
  failed=()
  build="$python benchmarks/gpu/build.py faceattr"
  step build 150 8 bash -c "FACEATTR_CUDA=1 side_by_side '$build._C' '$build._build_info' '$build._C_cuda'"
  step load-again 45 4 "$python" -c "$loads"
fi

# 2. Is each right? Precisions side by side: a kernel that kills its context takes its own process only.
smoke="timeout -k 3 75 $python benchmarks/gpu/smoke.py"
export OMP_NUM_THREADS=4
step smoke 85 0 bash -c "side_by_side '$smoke bfloat16' '$smoke TF32' '$smoke float32' '$smoke float16' \
  '$smoke float64 interweaved others'"
grep -h -A1 FAIL "$logs/smoke" | head -n 40
grep -h '^--' "$logs/smoke"

# 3. How fast: ours, cuDNN, Triton. 4. Why: what limits the products.
step key-rows 170 70 "$python" benchmarks/gpu/key_rows.py "$out/key-rows.md"
step ncu 50 60 ncu --clock-control none --kernel-name 'regex:contract|convolve_direct' --launch-count 11 \
  --section SpeedOfLight --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis --section Occupancy \
  --section WarpStateStats "$python" benchmarks/gpu/profiled.py

# 5. The tests, the CPU's part of them side by side.
step tests 95 15 "$python" -m pytest -q --maxfail 30 -p no:cacheprovider -n 6 -m "gpu and not large" tests/cuda

# 6. Memory and races on few small shapes, in our kernels alone.
sanitizer="compute-sanitizer --report-api-errors no --kernel-name kns=faceattr --error-exitcode 1"
step memcheck 50 8 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 $sanitizer "$python" benchmarks/gpu/smoke.py small "large tiles"
races="$sanitizer --tool racecheck $python benchmarks/gpu/smoke.py"
step racecheck 75 8 bash -c "side_by_side '$races small' '$races \"large tiles\"'"

# 7. With what time is left: over 2^31 elements, and the rivals' table.
step large 45 8 "$python" -m pytest -q -p no:cacheprovider -m "gpu and large" tests/cuda
step rivals 90 12 "$python" benchmarks/on_gpu.py --output "$out/RESULTS-cuda.md" --batches 32 256 --no-compile \
  --precisions bfloat16 TF32 --shapes "96->128" C3
echo "== done at $SECONDS s; failed: ${failed[*]:-nothing}" | tee -a "$out/all.txt"
rm -rf "$logs"
[ ${#failed[@]} -eq 0 ]
