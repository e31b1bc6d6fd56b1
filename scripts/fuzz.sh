#!/bin/sh
# Fuzzes the targets of crates/fuzz with libFuzzer, led by coverage, so many minutes each:
#
#   scripts/fuzz.sh MINUTES [TARGET...]
#
# Inputs that reached something new stay in target/fuzz/corpus and are begun with the next time;
# one that fails is in target/fuzz/found, and the script goes on with the next target. Judge one
# again with: cargo run -p evenkeel-fuzz -- one TARGET FILE
set -eu

minutes=${1:?"how many minutes for each target?"}
shift
cd "$(dirname "$0")/.."
place=${CARGO_TARGET_DIR:-target}/fuzz
mkdir -p "$place"
place=$(cd "$place" && pwd)

command -v c++ >/dev/null || {
    echo "libFuzzer is built by a C++ compiler, and there is none: apt-get install g++" >&2
    exit 1
}

# Seeds are made by the ordinary build: they are real values, written by the program itself.
cargo build -q -p evenkeel-fuzz
program=${CARGO_TARGET_DIR:-target}/debug/evenkeel-fuzz
"$program" seeds "$place/seeds"
[ $# -gt 0 ] || set -- $("$program" list | cut -d' ' -f1)

# Coverage without a sanitizer, which the stable compiler can do. Named host, so that build scripts
# and macros, which run while building, are built without.
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-pc-table"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="$coverage" cargo build --release --manifest-path fuzz/Cargo.toml \
    --target "$host" --target-dir "$place"
fuzzer=$place/$host/release/evenkeel-fuzz-libfuzzer

seconds=$(awk "BEGIN { print int($minutes * 60) }")
failed=
for target in "$@"; do
    mkdir -p "$place/corpus/$target" "$place/found/$target"
    log=$place/$target.log
    # A length that grows: what is wrong is mostly wrong in short inputs, too.
    if EVENKEEL_FUZZ_TARGET=$target "$fuzzer" -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=2048 -max_len=65536 -len_control=50 -print_final_stats=1 \
        -artifact_prefix="$place/found/$target/" \
        "$place/corpus/$target" "$place/seeds/$target" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        cover=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -1)
        rss=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
        echo "$target: ${runs:-0} inputs in $seconds s, ${cover:-0} places reached, ${rss:-?} MiB; nothing found"
    else
        failed="$failed $target"
        echo "$target: FOUND something: $log"
        grep -m3 -e panicked -e ERROR -e SUMMARY "$log" || true
    fi
done
[ -z "$failed" ] || {
    echo "found something:$failed" >&2
    exit 1
}
