#!/usr/bin/env bash
# What a lent GPU is asked: the tests of steps on it, then speeds. Goes on after failures; leaves all it says in $OUT.
# usage: tests/gpu/run.sh [tests] [gpu] [gpu_prefill]; all but tests are configs of benchmarks/.
set -u
export PYTHONPATH=$PWD/src:$PWD/tests PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
out=${OUT:-/tmp}
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
for what in "$@"; do
  began=$(date +%s)
  case $what in
    tests) timeout 150 python3 -m pytest -q -n 10 -p no:cacheprovider tests/gpu --tb=short --durations=5 >"$out/tests.log" 2>&1; tail -45 "$out/tests.log" ;;
    *) timeout 130 python3 -m omniform bench --config-dir benchmarks --config-name "$what" --json "$out/$what.json" \
      >"$out/bench_$what.log" 2>&1; tail -12 "$out/bench_$what.log" | cut -c1-3000 ;;
  esac
  echo "== $what: $(($(date +%s) - began)) s"
done
