#!/usr/bin/env bash
# Breaks the shipped code on purpose in seven places and runs what must notice. Before that, the same runs must pass with the
# same program and nothing broken.
#
#   simulations/mutants.sh
#
# The breaks are put into a copy of the tree, each behind a switch (the variable LANRAGE_BROKEN), so that one build does for
# all. The copy and the build are kept in simulations/target/mutants: only the first call builds the dependencies.
#
# Noticed means: the run ended with status 1 and the oracle said what the break leads to (the pattern beside each break).
# Anything else is no notice and fails the script: a run that passes, one that takes too long, a panic of the harness, a
# break that is not there to be made or does not compile.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$root/simulations/target/mutants
tree=$work/tree
patience=240 # seconds for one run
rm -rf "$work/broken" "$work/corpus"
mkdir -p "$tree" "$work/corpus"

# Makes the copy equal to the tree, but for what is in $work/broken. What is equal already is not touched, and what is copied
# gets a new time: cargo builds what differs, and nothing else.
sync_tree() {
    local file from
    (cd "$root" && find . \( -name target -o -name .git \) -prune -o -type f -print0) >"$work/files"
    while IFS= read -r -d '' file; do
        from=$root/$file
        [[ ! -e $work/broken/$file ]] || from=$work/broken/$file
        cmp -s "$from" "$tree/$file" || install -D "$from" "$tree/$file"
    done <"$work/files"
    while IFS= read -r -d '' file; do
        [[ -e $root/$file ]] || rm "$tree/$file"
    done < <(cd "$tree" && find . -type f -print0)
}

# Runs `simulate …` with one break switched on, or none; what it said is in $work/said.
simulate() {
    local outcome=0 words
    read -ra words <<<"$2"
    [[ ${words[0]} != explore ]] || words+=(--corpus "$work/corpus")
    (cd "$tree/simulations" && LANRAGE_BROKEN=$1 timeout --kill-after=10 "$patience" \
        "$work/build/debug/simulate" "${words[@]}") </dev/null >"$work/said" 2>&1 || outcome=$?
    return "$outcome"
}

# Every break: switch, name, file, what is there, what takes its place, what notices, what the oracle says then (a pattern).
switches=() names=() files=() befores=() afters=() runs=() signs=()
mutant() {
    switches+=("$1") names+=("$2") files+=("$3") befores+=("$4") afters+=("$5") runs+=("$6") signs+=("$7")
}

mutant merge "roster merge: a record that is held is never replaced by a newer one" actors/party/roster.rs \
    '&& rank(&record, signed) <= rank(held.get(), held.signed())' \
    '&& (crate::broken("merge") || rank(&record, signed) <= rank(held.get(), held.signed()))' \
    "explore machines --seeds 1..12" 'different rosters among|sees the members'
mutant address "IP collision: neither of two members with one address gives it up" actors/party/view.rs \
    'self.without_ip.insert(loser);' 'if !crate::broken("address") { self.without_ip.insert(loser); }' \
    "explore machines --seeds 13..16" 'both have 10\.66\.'
mutant timer "a timer: the digest exchange is not armed again" actors/party/machine/mod.rs \
    'if due(self.digest_at) {
            self.digest_at = Some(now.mono + DIGEST_EVERY);' \
    'if due(self.digest_at) {
            self.digest_at = (!crate::broken("timer")).then(|| now.mono + DIGEST_EVERY);' \
    "explore machines-deaf --seeds 1..4" 'different rosters among'
mutant proof "proof: any proof is taken" actors/party/proof.rs \
    'macs.iter().fold(false,' 'macs.iter().fold(crate::broken("proof"),' \
    "explore machines --seeds 1..12" 'told a stranger'
mutant queue "send queue: packets that wait have no bound" actors/peer/stage.rs \
    'sum::<usize>() <= MAX_PACKETS {' \
    'sum::<usize>() <= (if crate::broken("queue") { 1 << 20 } else { MAX_PACKETS }) {' \
    "run send-queue" 'nothing was counted as .dropped: staged packets pushed out'

mutant standing "standing: a newcomer takes the clock of whoever lets it in, however slow" actors/party/machine/session.rs \
    'newest.map_or(unix, |newest| unix.max(newest.saturating_add(1)))' \
    'newest.filter(|_| !crate::broken("standing")).map_or(unix, |newest| unix.max(newest.saturating_add(1)))' \
    "explore machines-rough --seeds 70..80" 'sees the host|and was told|sees the members'
mutant farewell "leaving: it is said once, and nobody is looked for to hear it" actors/party/machine/commands.rs \
    'let told = record.is_none()' 'let told = crate::broken("farewell") || record.is_none()' \
    "explore machines --seeds 1..12" 'sees the members'

# What is replaced must be there, once, or the break would test nothing.
break_it() {
    python3 - "$1" "$2" "$3" <<'PY'
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

# The broken files are made aside, and put into the copy with the rest.
for at in "${!names[@]}"; do
    install -D "$root/${files[at]}" "$work/broken/${files[at]}"
    break_it "$work/broken/${files[at]}" "${befores[at]}" "${afters[at]}"
done
install -D "$root/actors/lib.rs" "$work/broken/actors/lib.rs"
cat >>"$work/broken/actors/lib.rs" <<'RS'
pub(crate) fn broken(what: &str) -> bool {
    static ON: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("LANRAGE_BROKEN").unwrap_or_default()) == what
}
RS
sync_tree
(cd "$tree/simulations" && CARGO_TARGET_DIR=$work/build cargo build --locked --quiet --bin simulate)
say BUILT "with all breaks, each switched off"

failed=0
while IFS= read -r run; do
    SECONDS=0 outcome=0
    simulate "" "$run" || outcome=$?
    if ((outcome == 0)); then
        say PASSES "nothing broken: $run"
    else
        say "NO CONTROL" "nothing broken, and this does not pass (status $outcome): $run"
        tail -n 15 "$work/said"
        failed=1
    fi
done < <(printf '%s\n' "${runs[@]}" | sort -u)
((!failed)) || exit 1

for at in "${!names[@]}"; do
    SECONDS=0 outcome=0
    simulate "${switches[at]}" "${runs[at]}" || outcome=$?
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
exit "$failed"
