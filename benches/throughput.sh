#!/usr/bin/env bash
# Throughput, round trips, CPU and memory of LANrage beside the plain network, in one run on one machine.
#
# Two hosts a and b (network namespaces) with a plain router between them; LANrage runs on both. Beside it the same wires
# without LANrage (`plain`), and a second pair of hosts whose wires have no segmentation offloads (`nooff`): a veth passes
# 64 KiB segments whole, which no network card puts on a wire, so `plain` is an upper bound of the kernel.
# Idle figures first, then rounds in alternating order, one block per path and round. Needs root, iperf3, jq, ethtool.
#
#   LANRAGE_BIN=…   the program (default target/release/lanrage)
#   ROUNDS=3        rounds
#   QUICK=1         short blocks, to try the script itself
#   PATHS="plain nooff lanrage"
#   OUT=FILE        where the JSON goes (default target/bench/throughput.json)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=${LANRAGE_BIN:-target/release/lanrage}
rounds=${ROUNDS:-3}
read -ra paths <<<"${PATHS:-plain nooff lanrage}"
out=${OUT:-target/bench/throughput.json}
long=10 short=5 udp=4 loaded=6 pings=2000 loaded_pings=400 idle=30
if [[ -n ${QUICK:-} ]]; then
    long=2 short=1 udp=1 loaded=2 pings=200 loaded_pings=100 idle=3
fi

die() {
    echo "$*" >&2
    exit 1
}
uses() { [[ " ${paths[*]} " == *" $1 "* ]]; }

[[ $(id -u) == 0 ]] || die "network namespaces need root: sudo -E $0"
for program in ip iperf3 ping jq ethtool; do
    command -v "$program" >/dev/null || die "$program is missing: apt-get install iproute2 iperf3 iputils-ping jq ethtool"
done
if uses lanrage; then
    [[ -x $bin ]] || die "no program at $bin: cargo build --release, or set LANRAGE_BIN"
    bin=$(realpath "$bin")
fi

lab=lrb$$
tmp=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    for ns in a b c d r; do
        ip netns del "$lab-$ns" 2>/dev/null || true
    done
    rm -rf "$tmp"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

inside() {
    local ns=$1
    shift
    ip netns exec "$lab-$ns" "$@"
}

# background HOST COMMAND…: started inside, killed at the end; its pid is in $!.
background() {
    local ns=$1
    shift
    ip netns exec "$lab-$ns" "$@" &
    pids+=($!)
}

# host NAME NETWORK: a host with NETWORK.10 behind the router's NETWORK.1.
host() {
    ip netns add "$lab-$1"
    ip -n "$lab-$1" link set lo up
    ip link add eth0 netns "$lab-$1" type veth peer name "to-$1" netns "$lab-r"
    ip -n "$lab-$1" addr add "$2.10/24" dev eth0
    ip -n "$lab-r" addr add "$2.1/24" dev "to-$1"
    ip -n "$lab-$1" link set eth0 up
    ip -n "$lab-r" link set "to-$1" up
    ip -n "$lab-$1" route add default via "$2.1"
}

ip netns add "$lab-r"
ip -n "$lab-r" link set lo up
inside r sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
host a 203.0.113
host b 198.51.100
host c 192.0.2
host d 198.18.0
for name in c d; do
    inside "$name" ethtool -K eth0 tso off gso off gro off tx off >/dev/null
    inside r ethtool -K "to-$name" tso off gso off gro off tx off >/dev/null
done

declare -A from=([plain]=a [nooff]=c [lanrage]=a) to=([plain]=198.51.100.10 [nooff]=198.18.0.10 [lanrage]='')
node_pids=()

lanrage() {
    local ns=$1
    shift
    inside "$ns" "$bin" "$@" --api 127.0.0.1:8666 --data-dir "$tmp/$ns"
}

start_nodes() {
    local ns try link
    for ns in a b; do
        background "$ns" "$bin" up --data-dir "$tmp/$ns" --name "bench-$ns" --api 127.0.0.1:8666 \
            --no-default-bootstrap --dht-protocol /lanrage/kad/1.0.0 >"$tmp/$ns.log" 2>&1
        node_pids+=($!)
    done
    for ns in a b; do
        for ((try = 0; ; try++)); do
            lanrage "$ns" status --json >/dev/null 2>&1 && break
            ((try < 150)) || die "the API of $ns does not answer: $(tail -5 "$tmp/$ns.log")"
            sleep 0.2
        done
    done
    link=$(lanrage a party create --json | jq -er .link)
    lanrage b party join "$link" --json >/dev/null
    to[lanrage]=$(lanrage b status --json | jq -er .party.virtual_ip)
    inside a ping -n -i 0.1 -c 1 -w 30 "${to[lanrage]}" >/dev/null || die "no ping through the tunnel"
}

# CPU seconds that the nodes have used, and their memory in MiB.
cpu_of() {
    local ticks=0 pid stat
    for pid in "$@"; do
        stat=$(<"/proc/$pid/stat")
        read -ra stat <<<"${stat##*) }"
        ((ticks += stat[11] + stat[12])) || true
    done
    jq -n "$ticks / $(getconf CLK_TCK)"
}
rss_of() {
    awk -v key="$2:" '$1 == key { printf "%.2f", $2 / 1024 }' "/proc/$1/status"
}

# note ROUND PATH METRIC VALUE
note() {
    jq -cn --argjson round "$1" --arg path "$2" --arg metric "$3" --argjson value "$4" '$ARGS.named' >>"$tmp/results"
}

# Round trips of a ping's output in microseconds: p50, p99, and the share that was lost, in percent.
round_trips() {
    grep -o 'time=[0-9.]*' "$1" | cut -d= -f2 | sort -n | awk -v sent="$2" '
        { all[NR] = $1 * 1000 }
        function at(share, n) { n = int(share * NR); return all[n < 1 ? 1 : n] }
        END { printf "%.0f %.0f %.2f\n", at(0.5), at(0.99), 100 * (1 - NR / sent) }'
}

block() {
    local round=$1 path=$2 ns=${from[$2]} target=${to[$2]} before after run bytes
    echo "round $round: $path" >&2

    inside "$ns" ping -n -i 0.002 -c "$pings" -W 1 -s 56 "$target" >"$tmp/ping" || true
    read -r p50 p99 lost < <(round_trips "$tmp/ping" "$pings")
    note "$round" "$path" ping_p50_us "$p50"
    note "$round" "$path" ping_p99_us "$p99"
    note "$round" "$path" ping_lost_pct "$lost"

    before=$(cpu_of "${node_pids[@]}")
    run=$(inside "$ns" iperf3 -J -c "$target" -t "$long" -i 0 -C cubic)
    after=$(cpu_of "${node_pids[@]}")
    bytes=$(jq -er .end.sum_received.bytes <<<"$run")
    note "$round" "$path" tcp_to_b_mbps "$(jq .end.sum_received.bits_per_second/1e6 <<<"$run")"
    note "$round" "$path" tcp_retransmits "$(jq .end.sum_sent.retransmits <<<"$run")"
    [[ $path != lanrage ]] || note "$round" "$path" cpu_s_per_gb "$(jq -n "($after - $before) / ($bytes / 1e9)")"

    run=$(inside "$ns" iperf3 -J -c "$target" -t "$short" -i 0 -C cubic -R)
    note "$round" "$path" tcp_to_a_mbps "$(jq .end.sum_received.bits_per_second/1e6 <<<"$run")"

    run=$(inside "$ns" iperf3 -J -c "$target" -t "$udp" -i 0 -u -b 500M -l 1200)
    # Older iperf3 has what was sent and the share lost; newer ones have what was received.
    note "$round" "$path" udp_received_mbps "$(jq '.end.sum | .bits_per_second / 1e6 * (1 - .lost_percent / 100)' <<<"$run")"
    note "$round" "$path" udp_lost_pct "$(jq .end.sum.lost_percent <<<"$run")"

    inside "$ns" iperf3 -c "$target" -t "$loaded" -i 0 -C cubic >/dev/null &
    local load=$!
    sleep 0.5
    inside "$ns" ping -n -i 0.01 -c "$loaded_pings" -W 1 -s 56 "$target" >"$tmp/ping" || true
    wait "$load"
    read -r p50 p99 lost < <(round_trips "$tmp/ping" "$loaded_pings")
    note "$round" "$path" loaded_ping_p50_us "$p50"
    note "$round" "$path" loaded_ping_p99_us "$p99"
    note "$round" "$path" loaded_ping_lost_pct "$lost"

    if [[ $path == lanrage ]]; then
        note "$round" "$path" rss_loaded_mib "$(jq -n "[$(rss_of "${node_pids[0]}" VmRSS), $(rss_of "${node_pids[1]}" VmRSS)] | max")"
        # The 64 MiB of Argon2id, once at each create and join, are in this one.
        note "$round" "$path" rss_peak_mib "$(jq -n "[$(rss_of "${node_pids[0]}" VmHWM), $(rss_of "${node_pids[1]}" VmHWM)] | max")"
    fi
}

for ns in b d; do
    background "$ns" iperf3 -s >/dev/null
done
if uses lanrage; then
    start_nodes
    echo "idle for $idle s" >&2
    sleep 2
    before=$(cpu_of "${node_pids[@]}")
    sleep "$idle"
    after=$(cpu_of "${node_pids[@]}")
    note 0 lanrage idle_cpu_pct_per_node "$(jq -n "100 * ($after - $before) / $idle / 2")"
    note 0 lanrage rss_idle_mib "$(jq -n "[$(rss_of "${node_pids[0]}" VmRSS), $(rss_of "${node_pids[1]}" VmRSS)] | max")"
fi

reversed=()
for path in "${paths[@]}"; do
    reversed=("$path" "${reversed[@]}")
done
for ((round = 1; round <= rounds; round++)); do
    # The order changes from round to round, so that what drifts does not favour one path.
    if ((round % 2)); then order=("${paths[@]}"); else order=("${reversed[@]}"); fi
    for path in "${order[@]}"; do
        block "$round" "$path"
    done
done

mkdir -p "$(dirname "$out")"
version=none
if uses lanrage; then version=$("$bin" --version); fi
jq -s \
    --arg date "$(date -u +%F)" --arg version "$version" --arg kernel "$(uname -r)" --arg iperf "$(iperf3 --version | sed -n 1p)" \
    --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p)" --argjson cores "$(nproc)" \
    --arg flags "$(sed -n 's/^flags[^:]*: //p' /proc/cpuinfo | sed -n 1p | tr ' ' '\n' | grep -xE 'aes|avx2|avx512(f|bw|vl|ifma|vbmi)|vaes|vpclmulqdq|sha_ni|bmi2' | sort | paste -sd' ')" \
    --arg load "$(cut -d' ' -f1-3 /proc/loadavg)" --argjson rounds "$rounds" '
    {
        machine: { cpu: $cpu, cores: $cores, flags: $flags, kernel: $kernel },
        lanrage: $version, iperf3: $iperf, date: $date, rounds: $rounds, load_at_the_end: $load,
        metrics: (group_by(.metric) | map({
            key: .[0].metric,
            value: (group_by(.path) | map({
                key: .[0].path,
                value: (map(.value) | sort | {
                    min: .[0], median: (if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end),
                    max: .[-1], values: .
                })
            }) | from_entries)
        }) | from_entries)
    }' "$tmp/results" >"$out"

jq -r '
    # Three figures are as many as a shared machine is good for.
    def short: if . == null then "-" elif . >= 100 then (. | round | tostring)
        elif . >= 10 then (. * 10 | round / 10 | tostring) else (. * 100 | round / 100 | tostring) end;
    def cell: if . == null then "-" else "\(.median | short) (\(.min | short) to \(.max | short))" end;
    def ratio(a; b): if a == null or b == null or b.median == 0 then "-" else (a.median / b.median | short) end;
    "Machine: \(.machine.cores) cores of \(.machine.cpu) (\(.machine.flags)), kernel \(.machine.kernel); \(.iperf3); \(.lanrage); \(.date); load \(.load_at_the_end).",
    "Median (least to most) of \(.rounds) rounds.", "",
    "| what | plain | plain, no offloads | LANrage | LANrage / plain | LANrage / no offloads |",
    "| --- | --- | --- | --- | --- | --- |",
    (.metrics | to_entries[] | .value as $v |
        "| \(.key) | \($v.plain | cell) | \($v.nooff | cell) | \($v.lanrage | cell) | \(ratio($v.lanrage; $v.plain)) | \(ratio($v.lanrage; $v.nooff)) |")
' "$out"
echo
echo "JSON: $out" >&2
