#!/usr/bin/env bash
# Everything that must hold, from a fresh clone on a Debian-like machine with Rust and git:
#   formatting, lints, unit and property tests, system tests with the release program, documentation.
#
# Installs what is missing with apt-get (sudo when not root). The system tests need root for network namespaces:
# they run through sudo when this script does not.
#
#   scripts/test.sh            all of it
#   scripts/test.sh --system   the release build and the system tests only
#   LANRAGE_BIN=…              test this program instead of building one
#   LANRAGE_RUNS=10            repeat what is measured so often (default 3)
#   LANRAGE_TEST_THREADS=1     system tests at a time (default 2)
#   CI=true                    a system test that cannot run is a failure, not a skip
# shellcheck disable=SC2317 # the functions are called through `step`
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
export CARGO_TERM_COLOR=never

only=${1:-all}
case $only in
    all | --system) ;;
    *)
        sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0"
        exit 2
        ;;
esac

summary=()
failed=0

# step NAME COMMAND…: run, time, remember.
step() {
    local name=$1 start=$SECONDS outcome=ok
    shift
    printf '\n=== %s\n' "$name"
    "$@" || {
        outcome=FAILED
        failed=1
    }
    summary+=("$(printf '%-7s %4d s  %s' "$outcome" $((SECONDS - start)) "$name")")
    [[ $outcome == ok ]]
}

finish() {
    printf '\n=== summary (%d s in all)\n' "$SECONDS"
    printf '%s\n' "${summary[@]}"
    if ((failed)); then
        echo "NOT everything passed."
    else
        echo "Everything passed."
    fi
    exit "$failed"
}

as_root=()
if [[ $(id -u) != 0 ]]; then
    as_root=(sudo -E)
fi

have() {
    PATH=$PATH:/usr/sbin:/sbin:/usr/games command -v "$1" >/dev/null
}

# Of what was just installed: no service of it is to run on this machine, the tests start their own.
keep_from_running() {
    local package
    have systemctl || return 0
    for package in "$@"; do
        case $package in
            avahi-daemon) "${as_root[@]}" systemctl disable --now avahi-daemon.socket avahi-daemon.service ;;
            mumble-server | armagetronad-dedicated | openarena-server | teeworlds-server)
                "${as_root[@]}" systemctl disable --now "$package"
                ;;
            bzflag-server) "${as_root[@]}" systemctl disable --now bzflag ;;
        esac
    done >/dev/null 2>&1
    return 0
}

install_what_is_missing() {
    # program:package
    local wanted=(
        ip:iproute2 ss:iproute2 tc:iproute2 nft:nftables conntrack:conntrack ping:iputils-ping setpriv:util-linux setcap:libcap2-bin socat:socat iperf3:iperf3
        miniupnpd:miniupnpd-nftables slirp4netns:slirp4netns freeciv-server:freeciv-server chocolate-server:chocolate-doom chocolate-doom:chocolate-doom cc:gcc ld:binutils
        # Real games, their clients' screen, and mDNS as on a desktop: about 1 minute, 0.5 GB fetched, 0.6 GB on the disk.
        openttd:openttd openarena:openarena openarena-server:openarena-server Xvfb:xvfb xdotool:xdotool
        teeworlds-server:teeworlds-server DDNet-Server:ddnet-server cube2-server:cube2-server
        armagetronad-dedicated:armagetronad-dedicated bzfs:bzflag-server java:openjdk-17-jre-headless
        murmurd:mumble-server avahi-daemon:avahi-daemon avahi-browse:avahi-utils dbus-daemon:dbus-daemon
    )
    local missing=() entry
    for entry in "${wanted[@]}"; do
        have "${entry%%:*}" || missing+=("${entry##*:}")
    done
    # The C library's headers (bundled SQLite), which no program stands for.
    [[ -e /usr/include/stdlib.h ]] || missing+=(libc6-dev)
    # OpenTTD's graphics, likewise.
    [[ -d /usr/share/games/openttd/baseset/opengfx ]] || missing+=(openttd-opengfx)
    if ((${#missing[@]})); then
        echo "installing: ${missing[*]}"
        if have apt-get; then
            "${as_root[@]}" apt-get update -q || echo "no fresh package lists; trying with those at hand"
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}" || return 1
            keep_from_running "${missing[@]}"
        else
            echo "this is no Debian-like machine: install them yourself"
            return 1
        fi
    fi
    for entry in fmt clippy; do
        cargo "$entry" --version >/dev/null 2>&1 || rustup component add "${entry/fmt/rustfmt}" || return 1
    done
    if [[ ! -e /dev/net/tun ]]; then
        "${as_root[@]}" modprobe tun 2>/dev/null
        [[ -e /dev/net/tun ]] || {
            "${as_root[@]}" mkdir -p /dev/net && "${as_root[@]}" mknod -m 600 /dev/net/tun c 10 200
        }
    fi
    echo "all there: $(rustc --version), $(ip -V)"
}

program=${LANRAGE_BIN:-}

build_program() {
    if [[ -z $program ]]; then
        local built
        built=$(cargo build --release --bin lanrage --message-format=json-render-diagnostics) || return 1
        program=$(sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$built" | tail -n 1)
    fi
    [[ -x $program ]] || {
        echo "no program at '$program'"
        return 1
    }
    program=$(realpath "$program")
    "$program" --version
}

declare -A test_programs=()

build_tests() {
    local said name path
    said=$(cargo test --workspace --no-run --test '*' 2>&1) || {
        printf '%s\n' "$said"
        return 1
    }
    while read -r name path; do
        test_programs[$name]=$path
    done < <(sed -n 's|^ *Executable tests/\([a-z0-9_]*\)\.rs (\(.*\))$|\1 \2|p' <<<"$said")
    echo "test programs: ${!test_programs[*]}"
    ((${#test_programs[@]}))
}

system_test() {
    # Not through cargo, so that root neither builds nor owns anything in target/.
    "${as_root[@]}" env LANRAGE_BIN="$program" CI="${CI:-}" LANRAGE_RUNS="${LANRAGE_RUNS:-3}" \
        timeout --kill-after=30 1500 "$(realpath "$1")" --show-output --test-threads="${LANRAGE_TEST_THREADS:-2}"
}

document() {
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
}

step "packages" install_what_is_missing
if [[ $only == all ]]; then
    step "format" cargo fmt --all --check
    step "lints" cargo clippy --workspace --all-targets -- -D warnings
    step "unit and property tests" cargo test --workspace --lib --bins
    step "documentation examples" cargo test --workspace --doc
    step "documentation" document
    step "simulations: lints" cargo clippy --manifest-path simulations/Cargo.toml --all-targets -- -D warnings
    step "simulations: tests, smoke set, kept failures" simulations/smoke.sh
fi
step "release build" build_program || finish
step "build of the system tests" build_tests || finish
mapfile -t names < <(printf '%s\n' "${!test_programs[@]}" | sort)
for name in "${names[@]}"; do
    step "system test: $name" system_test "${test_programs[$name]}"
done
finish
