#!/usr/bin/env bash
# Breaks the shipped code on purpose, one line at a time in a scratch copy of the tree, and runs the scenarios that must
# notice. Fails when a break goes unnoticed.
#
#   simulations/mutants.sh [TARGET_DIR]
#
# TARGET_DIR: where to build (default: a folder of the scratch copy); give one that is kept to make it faster.
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
target=${1:-$scratch/target}

copy() {
  rm -rf "$scratch/tree"
  mkdir "$scratch/tree"
  tar -C "$here" --exclude=target --exclude=.git -cf - . | tar -C "$scratch/tree" -xf -
}

# Lines that are replaced must be there, or the mutation would test nothing.
replace() {
  local file=$1 from=$2 to=$3
  python3 - "$scratch/tree/$file" "$from" "$to" <<'PY'
import sys
path, old, new = sys.argv[1:]
text = open(path).read()
if old not in text:
    sys.exit(f"{path} has no line `{old}` any more: bring mutants.sh up to date")
open(path, "w").write(text.replace(old, new, 1))
PY
}

unnoticed=0
mutant() {
  local name=$1 file=$2 from=$3 to=$4
  shift 4
  copy
  replace "$file" "$from" "$to"
  (cd "$scratch/tree/simulations" && CARGO_TARGET_DIR=$target cargo build --quiet --bin simulate)
  local run
  for run in "$@"; do
    # shellcheck disable=SC2086 # the words of a command
    if ! (cd "$scratch/tree/simulations" && timeout 300 "$target/debug/simulate" $run) >"$scratch/said" 2>&1; then
      echo "NOTICED    $name: $run"
      grep -m1 -A1 -E 'What failed|fails with' "$scratch/said" | tail -1
      return
    fi
  done
  echo "UNNOTICED  $name"
  unnoticed=1
}

all="explore machines --seeds 1..20"

mutant "roster merge: a record that is held is never replaced by a newer one" actors/party/roster.rs \
  "&& rank(&record, signed) <= rank(held.get(), held.signed())" "&& held.get().seq > 0" "$all"
mutant "IP collision: the higher PeerId keeps the address, and both think so of themselves" actors/party/view.rs \
  "let loser = record.node.max(*keeper);" "let loser = NodeId([0; 32]);" "$all"
mutant "a timer: the digest exchange is not armed again" actors/party/machine/mod.rs \
  "self.digest_at = Some(now.mono + DIGEST_EVERY);" "self.digest_at = None;" "$all" "explore machines-rough --seeds 1..40"
mutant "proof: any proof is taken" actors/party/proof.rs "macs.iter().fold(false," "macs.iter().fold(true," "$all" "run hostile-joiner --peers 4"
mutant "send queue: packets that wait have no bound" actors/peer/stage.rs \
  "let full = self.packets.len() >= MAX_PACKETS;" "let full = self.packets.len() >= 1 << 20;" "$all" \
  "run send-queue"

exit $unnoticed
