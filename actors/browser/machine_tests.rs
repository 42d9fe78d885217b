use super::*;

const ANN: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 1);
const BOB: Ipv4Addr = Ipv4Addr::new(10, 66, 0, 2);

fn hosted(game: &str, port: u16) -> Hosted {
    Hosted { game: game.into(), port, query_port: None }
}

fn member(name: &str, ip: Ipv4Addr, servers: &[Hosted]) -> MemberHosts {
    MemberHosts { name: name.into(), ip, me: ip == ANN, hosted: servers.to_vec() }
}

fn game(id: &str, language: Option<Language>) -> GameFacts {
    let join_command = Some(format!("{id} +connect {{ip}}:{{port}}"));
    GameFacts { id: id.into(), name: id.to_uppercase(), language, query_ports: None, join_command, join_address: None }
}

fn machine() -> BrowserMachine {
    let mut machine = BrowserMachine::default();
    machine.set_games(vec![game("quake", Some(Language::Quake3)), game("0ad", None)]);
    machine
}

fn answer(name: &str) -> (Answer, Duration) {
    (Answer { name: Some(name.into()), players: Some(2), ..Answer::default() }, Duration::from_micros(1234))
}

#[test]
fn a_server_is_asked_shown_and_gone() {
    let (mut machine, mut now) = (machine(), Instant::now());
    machine.set_members(now, vec![member("ann", ANN, &[]), member("bob", BOB, &[hosted("quake", 27960)])]);
    assert!(machine.view(now).servers.is_empty(), "not before it has answered");
    let question = machine.poll_question(now).unwrap();
    assert_eq!((question.key.0, question.port, question.language), (BOB, 27960, Language::Quake3));
    assert_eq!(machine.poll_question(now + ASK_EVERY * 9), None, "one question at a time");
    machine.answered(now, &question.key, Ok(answer("Bob's")));
    let view = machine.view(now).servers;
    let shown = &view[0];
    assert_eq!((shown.game_name.as_str(), shown.member.as_str(), shown.state), ("QUAKE", "bob", "answers"));
    assert_eq!((shown.name.as_deref(), shown.players, shown.ping_ms), (Some("Bob's"), Some(2), Some(1.23)));
    assert_eq!(shown.join_command.as_deref(), Some("quake +connect 10.66.0.2:27960"));
    assert_eq!(shown.join_address, "10.66.0.2:27960");

    // It stops without a word: shown until the second question is not answered.
    for left in [1, 0] {
        now = machine.poll_timeout().unwrap();
        let question = machine.poll_question(now).unwrap();
        machine.answered(now, &question.key, Err(Outcome::Silent));
        assert_eq!(machine.view(now).servers.len(), left);
    }
    // And back.
    now = machine.poll_timeout().unwrap();
    let question = machine.poll_question(now).unwrap();
    machine.answered(now, &question.key, Ok(answer("again")));
    assert_eq!(machine.view(now).servers.len(), 1);
    machine.set_members(now, vec![member("bob", BOB, &[])]);
    assert!(machine.view(now).servers.is_empty());
    assert_eq!(machine.poll_timeout(), None);
}

#[test]
fn a_server_is_asked_where_its_game_answers() {
    let (mut machine, now) = (BrowserMachine::default(), Instant::now());
    machine.set_games(vec![GameFacts { query_ports: Some(2457..=2459), ..game("valheim", Some(Language::Source)) }]);
    let elsewhere = Hosted { query_port: Some(9), ..hosted("valheim", 2470) };
    for (server, port) in [(hosted("valheim", 2456), 2457), (hosted("valheim", 2458), 2458), (elsewhere, 9)] {
        machine.set_members(now, vec![member("ann", ANN, &[server])]);
        assert_eq!(machine.servers.values().next().unwrap().query_port, port);
    }
}

#[test]
fn a_server_that_never_answers_is_named() {
    let (mut machine, mut now) = (machine(), Instant::now());
    machine.set_members(now, vec![member("ann", ANN, &[]), member("bob", BOB, &[hosted("quake", 27960)])]);
    for expected in [None, Some("named")] {
        let question = machine.poll_question(now).unwrap();
        assert_eq!(question.from, ANN);
        machine.answered(now, &question.key, Err(Outcome::Silent));
        assert_eq!(machine.view(now).servers.first().map(|it| it.state), expected);
        now = machine.poll_timeout().unwrap();
    }
    let question = machine.poll_question(now).unwrap();
    machine.answered(now, &question.key, Ok(answer("Bob's")));
    assert_eq!(machine.view(now).servers[0].state, "answers");
}

#[test]
fn a_server_that_is_there_twice_counts_once() {
    let (mut machine, now) = (machine(), Instant::now());
    let twice = [hosted("quake", 1), Hosted { query_port: Some(9), ..hosted("quake", 1) }];
    let members = vec![member("ann", ANN, &[]), member("eve", BOB, &twice)];
    machine.set_members(now, members.clone());
    let question = machine.poll_question(now).unwrap();
    machine.answered(now, &question.key, Ok(answer("Eve's")));
    machine.set_members(now, members);
    assert_eq!(machine.view(now).servers.len(), 1, "its answer is not forgotten at the next look");
    assert_eq!((question.port, machine.poll_question(now + MEMBER_PACE)), (1, None));
}

#[test]
fn games_that_cannot_be_asked_are_an_address() {
    let (mut machine, now) = (machine(), Instant::now());
    machine.set_members(now, vec![member("bob", BOB, &[hosted("0ad", 20595), hosted("unknown-game", 7)])]);
    assert_eq!(machine.poll_question(now), None);
    let view = machine.view(now).servers;
    let shown: Vec<_> = view.iter().map(|it| (it.game_name.as_str(), it.state, it.join_address.as_str())).collect();
    assert_eq!(shown, [("0AD", "named", "10.66.0.2:20595"), ("unknown-game", "named", "10.66.0.2:7")]);
}

#[test]
fn a_hostile_record_makes_few_questions_and_only_to_its_member() {
    let (mut machine, start) = (machine(), Instant::now());
    let many: Vec<Hosted> = (1..=8).map(|port| hosted("quake", port)).collect();
    machine.set_members(start, vec![member("ann", ANN, &[]), member("eve", BOB, &many)]);
    let (mut now, mut asked) = (start, 0);
    while now < start + Duration::from_secs(60) {
        if let Some(question) = machine.poll_question(now) {
            assert_eq!(question.key.0, BOB);
            asked += 1;
            machine.answered(now, &question.key, Err(Outcome::Silent));
        }
        now += Duration::from_millis(50);
    }
    assert!((40..=60).contains(&asked), "one a second to one member: {asked}");

    let members: Vec<_> = (0..200).map(|n| member("eve", Ipv4Addr::from_bits(BOB.to_bits() + n), &many)).collect();
    machine.set_members(now, [vec![member("ann", ANN, &[])], members].concat());
    assert_eq!(machine.servers.len(), MAX_SERVERS);
    assert_eq!(machine.view(now).counters.left_out, 200 * 8 - MAX_SERVERS as u64);
    let (start, mut asked) = (now, 0);
    while now < start + Duration::from_secs(10) {
        while let Some(question) = machine.poll_question(now) {
            asked += 1;
            machine.answered(now, &question.key, Err(Outcome::Garbage));
        }
        now += Duration::from_millis(50);
    }
    assert!((45..=51).contains(&asked), "five a second in all: {asked}");
}

#[test]
fn announcements_count_while_they_are_repeated() {
    let (mut machine, now) = (machine(), Instant::now());
    machine.set_members(now, vec![member("bob", BOB, &[])]);
    let say = |port: u16, member| Announcement {
        member,
        source_port: 5,
        destination: Ipv4Addr::new(224, 0, 2, 60),
        destination_port: MINECRAFT_PORT,
        payload: format!("[MOTD]Bob \u{1b}[2J world[/MOTD][AD]{port}[/AD]").into_bytes(),
    };
    machine.heard(now, &say(1000, BOB));
    machine.heard(now, &say(1000, BOB));
    machine.heard(now, &say(1000, ANN));
    machine.heard(now, &Announcement { destination_port: 9, ..say(2000, BOB) });
    let view = machine.view(now).servers;
    assert_eq!(view.len(), 1, "once, and only of members: {view:?}");
    assert_eq!((view[0].state, view[0].name.as_deref(), view[0].port), ("announced", Some("Bob [2J world"), 1000));
    (2000..2100).for_each(|port| machine.heard(now, &say(port, BOB)));
    assert_eq!(machine.view(now).servers.len(), MAX_ANNOUNCED);
    assert!(machine.view(now + ANNOUNCED_FOR).servers.is_empty());
}

#[test]
fn what_is_told_is_each_server_once() {
    let named = [Hosted { query_port: Some(9), ..hosted("quake", 1) }];
    let all = merged(&[hosted("quake", 1), hosted("quake", 2)], &named);
    assert_eq!(all, [named[0].clone(), hosted("quake", 2)]);
    let many: Vec<Hosted> = (1..100).map(|port| hosted("x", port)).collect();
    assert_eq!(merged(&many, &named).len(), crate::wire::MAX_HOSTED);
}
