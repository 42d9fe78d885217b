#!/usr/bin/env bash
# The table of docs/nat-traversal.md: every kind of access against every kind, with the real program in network
# namespaces. Prints it, and progress before it. Needs root (sudo is used when it is not) and what scripts/test.sh
# installs.
#
#   scripts/nat-matrix.sh                         all 12 × 12 pairs and two of one LAN, once each
#   scripts/nat-matrix.sh --docs                  the same, and put it into docs/nat-traversal.md between its marks
#   scripts/nat-matrix.sh 'port>symmetric' …      these pairs (FIRST>SECOND, either may be *)
#   LANRAGE_RUNS=5                                each so often; the table has medians
#   LANRAGE_AT_ONCE=4                             pairs at a time
#   LANRAGE_SETTLE_MS=3000                        from the party's creation to the join command
#   LANRAGE_PATIENCE_S=20                         how long a pair may take to be direct
#   LANRAGE_RELAYS=1                              public nodes, 1 or 2
#   LANRAGE_MATRIX_OUT=FILE                       write the table there too
#   LANRAGE_BIN=…                                 this program instead of a release build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never

docs=
if [[ ${1:-} == --docs ]]; then
    docs=docs/nat-traversal.md
    shift
    [[ -w $docs ]] || {
        echo "$docs cannot be written" >&2
        exit 1
    }
    LANRAGE_MATRIX_OUT=$(mktemp)
    export LANRAGE_MATRIX_OUT
    trap 'rm -f "$LANRAGE_MATRIX_OUT"' EXIT
fi

# The file that cargo built for the target of this name.
executable() {
    sed -n "s/.*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\1/p" | tail -n 1
}

program=${LANRAGE_BIN:-}
if [[ -z $program ]]; then
    program=$(cargo build --release --bin lanrage --message-format=json-render-diagnostics | executable lanrage)
fi
program=$(realpath "$program")
tests=$(cargo test --no-run --test nat_matrix --message-format=json-render-diagnostics | executable nat_matrix)

pairs=all
if (($#)); then
    pairs=$(
        IFS=,
        echo "$*"
    )
fi
as_root=()
if [[ $(id -u) != 0 ]]; then
    as_root=(sudo -E)
fi
"${as_root[@]}" env LANRAGE_BIN="$program" LANRAGE_PAIRS="$pairs" "$tests" --ignored --exact all_pairs --nocapture

if [[ -n $docs ]]; then
    [[ -s $LANRAGE_MATRIX_OUT ]] || {
        echo "there is no table to write" >&2
        exit 1
    }
    kind=release
    [[ $program == */debug/* ]] && kind=development
    about="$(date --utc +%Y-%m-%d), $("$program" --version), $kind build, ${LANRAGE_AT_ONCE:-4} pairs at a time, $(nproc) cores,"
    about+=" load $(cut -d ' ' -f 1 /proc/loadavg) at the end:"
    new=$(mktemp)
    awk -v table="$LANRAGE_MATRIX_OUT" -v about="$about" '
        /^<!-- matrix: end -->$/ { inside = 0 }
        !inside
        /^<!-- matrix: begin -->$/ {
            inside = 1
            print about "\n"
            while ((getline line < table) > 0) print line
        }' "$docs" >"$new"
    cat "$new" >"$docs"
    rm -f "$new"
    echo "written into $docs"
fi
