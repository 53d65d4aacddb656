#!/usr/bin/env bash
# Everything that needs a GPU: bench/gpu.sh FOLDER builds in place, runs the cuda tests, compute-sanitizer on the kernels,
# and every benchmark. Needs Python with torch and the test dependencies, cmake, ninja, pybind11 and nvcc; no network.
# FOLDER gets gpu.log (everything), bench.jsonl (one measurement a line) and what each training said. Exit status 1: a step
# failed. Environment: PYTHON (default python3), PYNAS_CUDA_ARCHS (default: this machine's GPU), STEPS (default: all but the
# trainings, which need DATA, CIFAR-10 as an .npz: STEPS="build train-dna train-bossnas train-pinas train-prenas").
set -uo pipefail
folder=$(mkdir -p "${1:?usage: bench/gpu.sh FOLDER}" && cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
steps=${STEPS:-build tests memcheck racecheck bench}
log=$folder/gpu.log
failed=0
: >"$log"

step() {
  local name=$1 start=$SECONDS mark
  shift
  echo "== $name: $*" | tee -a "$log"
  mark=$(wc -l <"$log")
  if "$@" >>"$log" 2>&1; then
    echo "   passed in $((SECONDS - start)) s"
    tail -n "+$((mark + 1))" "$log" | tail -n 12
  else
    echo "   FAILED in $((SECONDS - start)) s"
    failed=1
    tail -n "+$((mark + 1))" "$log" | tail -n 60
  fi
}
wanted() { [[ " $steps " == *" $1 "* ]]; }

capability=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || exit 1
export PYNAS_CUDA=1 PYNAS_CUDA_ARCHS=${PYNAS_CUDA_ARCHS:-$capability}
tests=("$python" -m pytest -p no:cacheprovider -m cuda tests)

wanted build && step build "$python" setup.py -q build_ext --inplace
wanted tests && step tests "${tests[@]}"
for tool in memcheck racecheck; do
  # One dtype: the sanitizers slow every kernel down, torch's own included.
  wanted "$tool" && step "$tool" compute-sanitizer --tool "$tool" --error-exitcode 9 "${tests[@]}" -k "reference and float32"
done
if wanted bench; then
  for file in bench/[a-z]*.py; do
    stem=$(basename "$file" .py)
    grep -qE '"--device"|bench._timer' "$file" || continue  # search by trial and proxies run on the host
    step "bench $stem" "$python" -m "bench.$stem" --device cuda --json "$folder/bench.jsonl"
  done
fi
train() { # METHOD OPTIONS...: the whole images, from the training to the network taken out
  local method=$1
  shift
  step "train $method" bash -c '"$0" -m pynas run --json --data "$1" --method "$2" --run "$3" "${@:5}" > "$4"' \
    "$python" "${DATA:?the trainings need DATA, an .npz of CIFAR-10}" "$method" "$(mktemp -d)/run" \
    "$folder/$method.json" "$@"
}
wanted train-dna && train dna --space mbconv-mini --epochs 20 --batch-size 256
wanted train-bossnas && train bossnas --space nats-size --val-fraction 0.5 --epochs 20 --batch-size 256
wanted train-pinas && train pinas --space nasbench201-3 --epochs 50 --batch-size 256 --option search=all
wanted train-prenas && train prenas --space autoformer-mini --epochs 100 --batch-size 256
exit "$failed"
