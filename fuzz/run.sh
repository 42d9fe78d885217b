#!/usr/bin/env bash
# Builds and runs the fuzz targets under libFuzzer with the stable toolchain: fuzz/run.sh [SECONDS] [TARGET...]
#
# SECONDS for each target (60), all targets unless some are named. What is found is kept in fuzz/artifacts/TARGET, and
# `fuzz/target/.../TARGET FILE` runs it again. fuzz/corpus/TARGET grows from run to run. Needs a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")"

seconds=60
if [[ ${1-} =~ ^[0-9]+$ ]]; then
    seconds=$1
    shift
fi
targets=("$@")
if ((${#targets[@]} == 0)); then
    mapfile -t targets < <(sed -n 's|^path = "fuzz_targets/\(.*\)\.rs"|\1|p' Cargo.toml)
fi

host=$(rustc -vV | sed -n 's/^host: //p')
coverage=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)
export RUSTFLAGS="--cfg fuzzing ${coverage[*]}"
export CARGO_TARGET_DIR=$PWD/target
# With --target the flags are not those of build scripts.
cargo build --release --target "$host" "${targets[@]/#/--bin=}"

failed=()
for target in "${targets[@]}"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    log=artifacts/$target.log
    # No leak check: it is a part of the address sanitizer, which wants the nightly toolchain.
    if nice "target/$host/release/$target" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="artifacts/$target/" "corpus/$target" >"$log" 2>&1; then
        state=ok
    else
        state="FAILED, see fuzz/$log"
        failed+=("$target")
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    covered=$(grep -o ' cov: [0-9]*' "$log" | tail -n 1 | grep -o '[0-9]*' || true)
    if [[ $state == ok && ${covered:-0} -eq 0 ]]; then
        state="NOT GUIDED by coverage, see fuzz/$log"
        failed+=("$target")
    fi
    printf '%-20s %12s runs %8s/s %6s edges  %s\n' "$target" "${runs:-?}" "${rate:-?}" "${covered:-0}" "$state"
done
if ((${#failed[@]})); then
    echo "failed: ${failed[*]}" >&2
    exit 1
fi
