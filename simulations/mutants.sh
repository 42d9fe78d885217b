#!/usr/bin/env bash
# Breaks the shipped code on purpose, one place at a time in a copy of the tree, and runs what must notice. Before that, the
# same runs must pass with the code as it is.
#
#   simulations/mutants.sh
#
# Noticed means: the run ended with status 1 and the oracle said what the break leads to (the pattern beside each break).
# Anything else is no notice and fails the script: a run that passes, one that takes too long, a panic of the harness, a
# break that does not compile. The copy and its build are kept in simulations/target/mutants, so a second call is faster.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$root/simulations/target/mutants
tree=$work/tree
patience=240 # seconds for one run
mkdir -p "$tree" "$work/corpus"

# Makes the copy equal to the tree. What is equal already is not touched, and what is copied gets a new time, so that cargo
# builds what differs and nothing else.
sync_tree() {
    local file
    (cd "$root" && find . \( -name target -o -name .git \) -prune -o -type f -print0) >"$work/files"
    while IFS= read -r -d '' file; do
        cmp -s "$root/$file" "$tree/$file" || install -D "$root/$file" "$tree/$file"
    done <"$work/files"
    while IFS= read -r -d '' file; do
        [[ -e $root/$file ]] || rm "$tree/$file"
    done < <(cd "$tree" && find . -type f -print0)
}

build() {
    (cd "$tree/simulations" && CARGO_TARGET_DIR=$work/build cargo build --locked --quiet --bin simulate)
}

# Runs `simulate …` in the copy; what it said is in $work/said.
simulate() {
    local outcome=0 words
    read -ra words <<<"$1"
    [[ ${words[0]} != explore ]] || words+=(--corpus "$work/corpus")
    (cd "$tree/simulations" && timeout --kill-after=10 "$patience" "$work/build/debug/simulate" "${words[@]}") \
        </dev/null >"$work/said" 2>&1 || outcome=$?
    return "$outcome"
}

# Every break: name, file, what is there, what takes its place, what notices, what the oracle says then (a pattern).
names=() files=() befores=() afters=() runs=() signs=()
mutant() {
    names+=("$1") files+=("$2") befores+=("$3") afters+=("$4") runs+=("$5") signs+=("$6")
}

mutant "roster merge: a record that is held is never replaced by a newer one" actors/party/roster.rs \
    '&& rank(&record, signed) <= rank(held.get(), held.signed())' '&& held.get().seq > 0' \
    "explore machines --seeds 1..8" 'different rosters among|sees the members'
mutant "IP collision: neither of two members with one address gives it up" actors/party/view.rs \
    'self.without_ip.insert(loser);' 'let _ = loser;' \
    "explore machines --seeds 1..8" 'both have 10\.66\.'
mutant "a timer: the digest exchange is not armed again" actors/party/machine/mod.rs \
    'if due(self.digest_at) {
            self.digest_at = Some(now.mono + DIGEST_EVERY);' \
    'if due(self.digest_at) {
            self.digest_at = None;' \
    "explore machines-rough --seeds 1..8" 'different rosters among'
mutant "proof: any proof is taken" actors/party/proof.rs \
    'macs.iter().fold(false,' 'macs.iter().fold(true,' \
    "explore machines --seeds 1..8" 'told a stranger'
mutant "send queue: packets that wait have no bound" actors/peer/stage.rs \
    'let full = self.packets.len() >= MAX_PACKETS;' 'let full = self.packets.len() >= 1 << 20;' \
    "run send-queue" 'nothing was counted as .dropped: staged packets pushed out'

# The line that is replaced must be there, once, or the break would test nothing.
break_it() {
    python3 - "$tree/$1" "$2" "$3" <<'PY'
import sys
path, old, new = sys.argv[1:]
with open(path) as file:
    text = file.read()
if text.count(old) != 1:
    sys.exit(f"{path} has `{old}` {text.count(old)} times, not once: bring mutants.sh up to date")
with open(path, "w") as file:
    file.write(text.replace(old, new))
PY
}

say() {
    printf '%-10s %4d s  %s\n' "$1" "$SECONDS" "$2"
}

sync_tree
build
failed=0
while IFS= read -r run; do
    if simulate "$run"; then
        say PASSES "as it is: $run"
    else
        say "NO CONTROL" "as it is, this does not pass (status $?): $run"
        tail -n 15 "$work/said"
        failed=1
    fi
done < <(printf '%s\n' "${runs[@]}" | sort -u)
((!failed)) || exit 1

for at in "${!names[@]}"; do
    SECONDS=0
    sync_tree
    break_it "${files[at]}" "${befores[at]}" "${afters[at]}"
    if ! build; then
        say "NO BUILD" "${names[at]}"
        failed=1
        continue
    fi
    outcome=0
    simulate "${runs[at]}" || outcome=$?
    case $outcome in
        0) say UNNOTICED "${names[at]}" ;;
        1)
            if sign=$(grep -m1 -E -- "${signs[at]}" "$work/said"); then
                say NOTICED "${names[at]}"
                printf '%18s%s: %s\n' '' "${runs[at]}" "$(sed 's/^ *//' <<<"$sign")"
                continue
            fi
            say "NO SIGN" "${names[at]}: it failed, but not by: ${signs[at]}"
            tail -n 15 "$work/said"
            ;;
        124 | 137) say "TOO SLOW" "${names[at]}: ${runs[at]} had not ended after $patience s" ;;
        *)
            say "NOT RUN" "${names[at]}: status $outcome"
            tail -n 15 "$work/said"
            ;;
    esac
    failed=1
done
sync_tree
exit "$failed"
