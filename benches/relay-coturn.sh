#!/usr/bin/env bash
# LANrage's relay beside coturn, over real sockets between two network namespaces: processor time for each datagram of 128
# bytes that was forwarded, and memory, with 1, 1,000 and 10,000 clients. The same load, one after the other, ROUNDS times.
# Needs root, coturn (apt-get install coturn), and takes about two minutes a round.
#
#   benches/relay-coturn.sh
#   ROUNDS=3 SECONDS_EACH=8 CLIENTS="1 1000 10000" RATE=20000 RATE_ONE=4000
#   LANRAGE_BIN=… RELAY_LOAD=…   instead of release builds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROUNDS=${ROUNDS:-2} SECONDS_EACH=${SECONDS_EACH:-8} CLIENTS=${CLIENTS:-1 1000 10000}
# One host may send 5,000 packets a second through LANrage's relay.
RATE=${RATE:-20000} RATE_ONE=${RATE_ONE:-4000}

if [[ -z ${LANRAGE_BIN:-} || -z ${RELAY_LOAD:-} ]]; then
    cargo build --release --bin lanrage --example relay_load
fi
lanrage=$(realpath "${LANRAGE_BIN:-target/release/lanrage}")
load=$(realpath "${RELAY_LOAD:-target/release/examples/relay_load}")

# Two sockets a client here, one in coturn.
ulimit -n "$(ulimit -Hn)"

relay_space=lrbench$$-relay load_space=lrbench$$-load work=$(mktemp -d)
pid=
cleanup() {
    [[ -z $pid ]] || kill "$pid" 2>/dev/null || true
    ip netns del "$relay_space" 2>/dev/null || true
    ip netns del "$load_space" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

ip netns add "$relay_space"
ip netns add "$load_space"
ip link add eth0 netns "$relay_space" type veth peer name eth0 netns "$load_space"
for space in "$relay_space" "$load_space"; do
    ip -n "$space" link set lo up
    ip -n "$space" link set eth0 up
done
ip -n "$relay_space" addr add 198.51.100.1/24 dev eth0
ip -n "$load_space" addr add 198.51.100.2/24 dev eth0
ip -n "$load_space" route add local 10.9.0.0/16 dev lo
ip -n "$relay_space" route add 10.9.0.0/16 via 198.51.100.2
ip netns exec "$load_space" sysctl -qw net.core.rmem_default=262144 2>/dev/null || true

start_lanrage() {
    ip netns exec "$relay_space" "$lanrage" relay --data-dir "$work/relay" --public-ip 198.51.100.1 --p2p-port 4001 \
        --listen-port 41641 --no-default-bootstrap --dht-protocol /lanrage/kad/1.0.0 --log error >"$work/relay.log" 2>&1 &
    pid=$!
}

start_turn() {
    ip netns exec "$relay_space" turnserver -n --no-auth --no-tls --no-dtls --no-cli --listening-ip 198.51.100.1 \
        --relay-ip 198.51.100.1 --listening-port 3478 --min-port 10000 --max-port 65000 --no-stdout-log \
        --log-file "$work/turn.log" --pidfile "$work/turn.pid" --userdb "$work/turn.db" \
        --allow-loopback-peers >"$work/turn.out" 2>&1 &
    pid=$!
}

echo "| relay | clients | packets/s asked | lost | µs of processor a packet | packets/s of one core | memory, KiB |"
echo "| --- | --- | --- | --- | --- | --- | --- |"
for ((round = 0; round < ROUNDS; round++)); do
    for clients in $CLIENTS; do
        rate=$RATE
        ((clients > 1)) || rate=$RATE_ONE
        for kind in lanrage turn; do
            port=41641
            [[ $kind == lanrage ]] || port=3478
            "start_$kind"
            sleep 3
            ip netns exec "$load_space" "$load" "$kind" "198.51.100.1:$port" "$clients" "$rate" "$SECONDS_EACH" 10.9.0.0 "$pid" ||
                echo "| $kind | $clients | failed | | | | |"
            kill "$pid"
            wait "$pid" 2>/dev/null || true
            pid=
        done
    done
done
