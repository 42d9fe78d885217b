//! Which data streams there are, which are to be opened, and when.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::wire::NodeId;

/// Nodes to which a stream is kept: a full party, and relays.
const MAX_WANTED: usize = 320;
/// Addresses kept per node.
const MAX_ADDRS: usize = 8;
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(10);
/// A stream that ends sooner counts as a failed attempt.
const STABLE: Duration = Duration::from_secs(10);
/// A dial or a request that told neither success nor failure by then has failed.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect by TCP; `connected` or `dial_failed` is to follow.
    Dial { node: NodeId, addrs: Vec<String> },
    /// Open a stream on a TCP connection; `opened` or `ended` is to follow.
    Open { node: NodeId, id: u64 },
}

/// How many streams others may have open to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub inbound: usize,
    /// Of those, by nodes that are no members.
    pub strangers: usize,
    /// Of those, from one IPv4 address or IPv6 /64: a thousand identities cost nothing, addresses do.
    pub strangers_per_host: usize,
}

/// What a stream that is wanted stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    pub relay: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Dialling {
        since: Instant,
    },
    /// Asked for, not yet confirmed by the other side.
    Asked {
        id: u64,
        since: Instant,
    },
    Open {
        id: u64,
        since: Instant,
    },
}

#[derive(Debug)]
struct Wanted {
    addrs: Vec<String>,
    relay: Option<SocketAddr>,
    state: State,
    failures: u32,
    next_try: Instant,
}

impl Wanted {
    fn failed(&mut self, now: Instant) {
        let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(10)).min(RETRY_MAX);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Idle;
        self.next_try = now + wait;
    }

    fn id(&self) -> Option<u64> {
        match self.state {
            State::Asked { id, .. } | State::Open { id, .. } => Some(id),
            State::Idle | State::Dialling { .. } => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Inbound {
    id: u64,
    stranger: bool,
    /// Not known of what comes through a circuit.
    host: Option<IpAddr>,
}

#[derive(Debug, Default)]
pub struct Plan {
    wanted: BTreeMap<NodeId, Wanted>,
    /// One for each node: another one takes its place.
    inbound: BTreeMap<NodeId, Inbound>,
    next_id: u64,
}

impl Plan {
    /// Ids begin at `first_id`. It should be another one in each run: relay tokens that name a stream outlive the program,
    /// and must not lead to somebody else's stream in the next one.
    #[must_use]
    pub fn starting_at(first_id: u64) -> Self {
        Self { next_id: first_id, ..Self::default() }
    }

    /// Keep a stream to `node` from now on. Returns false when there are too many.
    pub fn want(&mut self, now: Instant, node: NodeId, addrs: Vec<String>, relay: Option<SocketAddr>) -> bool {
        if !self.wanted.contains_key(&node) && self.wanted.len() >= MAX_WANTED {
            return false;
        }
        let wanted = self.wanted.entry(node).or_insert_with(|| Wanted {
            addrs: Vec::new(),
            relay,
            state: State::Idle,
            failures: 0,
            next_try: now,
        });
        wanted.relay = relay;
        if addrs.iter().any(|addr| !wanted.addrs.contains(addr)) {
            wanted.failures = 0;
            wanted.next_try = now;
        }
        if !addrs.is_empty() {
            wanted.addrs = addrs;
            wanted.addrs.truncate(MAX_ADDRS);
        }
        true
    }

    /// No longer. Returns the stream to close.
    pub fn unwant(&mut self, node: NodeId) -> Option<u64> {
        self.wanted.remove(&node)?.id()
    }

    /// A TCP connection to `node` is there, whoever made it.
    pub fn connected(&mut self, now: Instant, node: NodeId) {
        if let Some(wanted) = self.wanted.get_mut(&node)
            && matches!(wanted.state, State::Idle | State::Dialling { .. })
        {
            // Else the time of the next try stays: a node that takes connections and refuses streams is not to be asked
            // all the time.
            if matches!(wanted.state, State::Dialling { .. }) {
                wanted.next_try = now;
            }
            wanted.state = State::Idle;
        }
    }

    pub fn dial_failed(&mut self, now: Instant, node: NodeId) {
        if let Some(wanted) = self.wanted.get_mut(&node)
            && matches!(wanted.state, State::Dialling { .. })
        {
            wanted.failed(now);
        }
    }

    /// The other side has confirmed. `None` when the stream is not wanted any more.
    pub fn opened(&mut self, now: Instant, node: NodeId, id: u64) -> Option<Opened> {
        let wanted = self.wanted.get_mut(&node).filter(|wanted| wanted.id() == Some(id))?;
        wanted.state = State::Open { id, since: now };
        Some(Opened { relay: wanted.relay })
    }

    /// A stream that `node` opened from `from`. Returns its id, and the stream that it replaces; `None` when there are too
    /// many.
    pub fn accept(
        &mut self,
        node: NodeId,
        from: Option<IpAddr>,
        stranger: bool,
        limits: Limits,
    ) -> Option<(u64, Option<u64>)> {
        let host = from.map(host_of);
        let known = self.inbound.get(&node).copied();
        if known.is_none() && self.inbound.len() >= limits.inbound {
            return None;
        }
        if stranger {
            // Its own does not count: that one is replaced.
            let others = || self.inbound.iter().filter(|(other, it)| **other != node && it.stranger);
            let neighbours = || others().filter(|(_, it)| it.host == host).count();
            if others().count() >= limits.strangers || (host.is_some() && neighbours() >= limits.strangers_per_host) {
                return None;
            }
        }
        let id = self.new_id();
        self.inbound.insert(node, Inbound { id, stranger, host });
        Some((id, known.map(|inbound| inbound.id)))
    }

    /// A stream is over, or was refused.
    pub fn ended(&mut self, now: Instant, node: NodeId, id: u64) {
        if self.inbound.get(&node).is_some_and(|inbound| inbound.id == id) {
            self.inbound.remove(&node);
        }
        if let Some(wanted) = self.wanted.get_mut(&node).filter(|wanted| wanted.id() == Some(id)) {
            if let State::Open { since, .. } = wanted.state
                && now.saturating_duration_since(since) >= STABLE
            {
                wanted.failures = 0;
            }
            wanted.failed(now);
        }
    }

    /// What is to be done now. `by_tcp`: whether there is a TCP connection to a node.
    pub fn tick(&mut self, now: Instant, by_tcp: impl Fn(NodeId) -> bool) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut next_id = self.next_id;
        for (&node, wanted) in &mut self.wanted {
            if let State::Dialling { since } | State::Asked { since, .. } = wanted.state
                && now.saturating_duration_since(since) >= ATTEMPT_TIMEOUT
            {
                wanted.failed(now);
            }
            if wanted.state != State::Idle || wanted.next_try > now {
                continue;
            }
            if by_tcp(node) {
                let id = next_id;
                next_id += 1;
                wanted.state = State::Asked { id, since: now };
                actions.push(Action::Open { node, id });
            } else {
                wanted.state = State::Dialling { since: now };
                actions.push(Action::Dial { node, addrs: wanted.addrs.clone() });
            }
        }
        self.next_id = next_id;
        actions
    }

    /// When `tick` wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let due = self.wanted.values().filter_map(|wanted| match wanted.state {
            State::Idle => Some((wanted.next_try, "data stream")),
            State::Dialling { since } | State::Asked { since, .. } => {
                Some((since + ATTEMPT_TIMEOUT, "data stream timed out"))
            }
            State::Open { .. } => None,
        });
        due.min_by_key(|(at, _)| *at)
    }

    #[must_use]
    pub fn inbound(&self) -> usize {
        self.inbound.len()
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }
}

/// An IPv4 address, or an IPv6 /64.
fn host_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NODE: NodeId = NodeId([2; 32]);
    const LIMITS: Limits = Limits { inbound: 4, strangers: 2, strangers_per_host: 2 };

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    /// The times in ms at which something is done until `seconds` have passed.
    fn run(
        plan: &mut Plan,
        start: Instant,
        seconds: u64,
        mut react: impl FnMut(&mut Plan, Instant, Action),
    ) -> Vec<u64> {
        let mut log = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(seconds) {
            for action in plan.tick(now, |_| true) {
                log.push(u64::try_from((now - start).as_millis()).unwrap());
                react(plan, now, action);
            }
            let Some((next, _)) = plan.poll_timeout() else { break };
            now = next.max(now + Duration::from_millis(1));
        }
        log
    }

    #[test]
    fn a_refused_stream_is_asked_for_ever_more_rarely() {
        let start = Instant::now();
        let mut plan = Plan::default();
        assert!(plan.want(start, NODE, vec![], None));
        let mut last = None;
        let log = run(&mut plan, start, 60, |plan, now, action| {
            let Action::Open { node, id } = action else { panic!("connected") };
            assert!(last < Some(id), "ids are never used again");
            last = Some(id);
            // It is open for a moment: that does not make it good.
            assert_eq!(plan.opened(now, node, id), Some(Opened { relay: None }));
            plan.ended(now, node, id);
            plan.connected(now, node);
        });
        assert_eq!(log[..8], [0, 250, 750, 1_750, 3_750, 7_750, 15_750, 25_750], "{log:?}");
    }

    #[test]
    fn one_that_lasted_is_made_again_at_once() {
        let start = Instant::now();
        let mut plan = Plan::default();
        let relay = Some("203.0.113.1:9".parse().unwrap());
        plan.want(start, NODE, vec!["/ip4/203.0.113.1/tcp/1".into()], relay);
        let Action::Dial { addrs, .. } = &plan.tick(start, |_| false)[0] else { panic!("not connected") };
        assert_eq!(addrs.len(), 1);
        assert_eq!(plan.tick(start + Duration::from_secs(14), |_| false), []);
        plan.connected(start, NODE);
        assert_eq!(plan.tick(start, |_| true), [Action::Open { node: NODE, id: 0 }]);
        assert_eq!(plan.opened(start, NODE, 0), Some(Opened { relay }));
        assert_eq!(plan.poll_timeout(), None);
        let later = start + STABLE;
        plan.ended(later, NODE, 0);
        assert_eq!(plan.poll_timeout().unwrap().0, later + RETRY_FIRST);
        assert_eq!(plan.tick(later + RETRY_FIRST, |_| true), [Action::Open { node: NODE, id: 1 }]);
        assert_eq!(plan.unwant(NODE), Some(1));
        assert_eq!(plan.opened(later, NODE, 1), None, "it came too late");
        assert_eq!(plan.poll_timeout(), None);
    }

    #[test]
    fn members_are_not_kept_out_by_strangers() {
        let mut plan = Plan::default();
        assert!(plan.accept(node(1), None, true, LIMITS).is_some());
        assert_eq!(plan.accept(node(2), None, true, LIMITS), Some((1, None)));
        assert_eq!(plan.accept(node(3), None, true, LIMITS), None);
        assert_eq!(plan.accept(node(2), None, true, LIMITS), Some((2, Some(1))), "it replaces its own");
        assert!(plan.accept(node(3), None, false, LIMITS).is_some());
        assert!(plan.accept(node(4), None, false, LIMITS).is_some());
        assert_eq!(plan.accept(node(5), None, false, LIMITS), None);
        let now = Instant::now();
        plan.ended(now, node(2), 1);
        assert_eq!(plan.inbound(), 4, "the one that was replaced leaves the new one alone");
        plan.ended(now, node(2), 2);
        assert_eq!(plan.inbound(), 3);
    }

    #[test]
    fn one_address_cannot_take_all_places() {
        let limits = Limits { inbound: 100, strangers: 100, strangers_per_host: 2 };
        let mut plan = Plan::default();
        let mut accept =
            |n, ip: &str, stranger| plan.accept(node(n), Some(ip.parse().unwrap()), stranger, limits).is_some();
        assert!(accept(1, "203.0.113.1", true) && accept(2, "203.0.113.1", true));
        assert!(!accept(3, "203.0.113.1", true) && !accept(3, "::ffff:203.0.113.1", true));
        assert!(accept(2, "203.0.113.1", true), "another one for its own");
        assert!(
            accept(3, "203.0.113.2", true) && accept(4, "203.0.113.1", false),
            "others, and members, are not in it"
        );
        assert!(!accept(3, "203.0.113.1", true), "nor does somebody move there");
        assert!(accept(5, "2001:db8::1", true) && accept(6, "2001:db8::2", true));
        assert!(!accept(7, "2001:db8::ffff:0:0:3", true), "one /64");
        assert!(accept(7, "2001:db8:0:1::1", true));
    }

    #[test]
    fn ids_of_another_run_are_others() {
        let mut plan = Plan::starting_at(1 << 40);
        assert_eq!(plan.accept(node(1), None, true, LIMITS), Some((1 << 40, None)));
    }

    proptest! {
        #[test]
        fn ids_are_never_used_twice_and_bounds_hold(steps in proptest::collection::vec((0u8..6, any::<u8>(), 0u64..20_000), 0..300)) {
            let mut now = Instant::now();
            let mut plan = Plan::default();
            let mut ids = std::collections::BTreeSet::new();
            let mut live = Vec::new();
            for (step, n, pause) in steps {
                now += Duration::from_millis(pause);
                let node = node(n % 16);
                match step {
                    0 => { plan.want(now, node, vec![format!("/ip4/203.0.113.{n}/tcp/1"); 20], None); }
                    1 => { plan.unwant(node); }
                    2 => if let Some((id, _)) = plan.accept(node, None, n % 3 == 0, LIMITS) {
                        prop_assert!(ids.insert(id));
                        live.push((node, id));
                    },
                    3 => if let Some((node, id)) = live.pop() { plan.ended(now, node, id); },
                    4 => plan.connected(now, node),
                    _ => for action in plan.tick(now, |node| node.0[0] % 2 == 0) {
                        match action {
                            Action::Open { id, node } => { prop_assert!(ids.insert(id)); live.push((node, id)); }
                            Action::Dial { addrs, .. } => prop_assert!(addrs.len() <= MAX_ADDRS),
                        }
                    },
                }
                prop_assert!(plan.inbound() <= LIMITS.inbound);
            }
        }
    }
}
