#!/usr/bin/env bash
# What CI runs of the simulations: their tests, the smoke set, and every failure that was ever kept.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
cargo fmt --check
cargo test --locked
cargo run --locked --quiet -- run --smoke
cargo run --locked --quiet -- replay
