//! The files that turn names into addresses, as the game is to see them.

use std::net::Ipv4Addr;

use super::messages::Friend;

/// Longest label of a host name (RFC 1035).
const MAX_LABEL: usize = 63;

/// Names that programs ask for without having been told: whoever had one could set a proxy, or a router for IPv6.
const SOUGHT: [&str; 2] = ["wpad", "isatap"];

/// /etc/hosts for the namespace: the machine's own name is its virtual IP, each friend's name is that friend's. All else
/// stays as it is.
pub(super) fn hosts(system: &str, own_name: Option<&str>, own_ip: Ipv4Addr, friends: &[Friend]) -> String {
    let own = own_name.map(str::to_ascii_lowercase);
    let mut out = String::from("# made by lanrage play\n");
    let mut taken: Vec<String> = vec!["localhost".into()];
    if let Some(own) = &own {
        out += &format!("{own_ip} {own}\n");
        taken.push(own.clone());
    }
    for line in system.lines() {
        let (entry, _comment) = line.split_once('#').unwrap_or((line, ""));
        let mut words = entry.split_whitespace();
        let Some(address) = words.next() else { continue };
        let names: Vec<&str> = words.filter(|name| Some(name.to_ascii_lowercase()) != own).collect();
        if !names.is_empty() {
            out += &format!("{address} {}\n", names.join(" "));
            taken.extend(names.iter().map(|name| name.to_ascii_lowercase()));
        }
    }
    for friend in friends {
        // What a friend calls himself must not stand for another machine.
        let name = friend.name.to_ascii_lowercase();
        if is_label(&name) && !taken.contains(&name) {
            out += &format!("{} {name}\n", friend.ip);
            taken.push(name);
        }
    }
    out
}

/// One label in small letters: letters, digits and inner hyphens, and not a number, which programs would read as an address.
fn is_label(name: &str) -> bool {
    (1..=MAX_LABEL).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
        && name.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !name.starts_with("0x")
        && !SOUGHT.contains(&name)
}

/// /etc/nsswitch.conf in which the hosts file is asked first; `None` when it is as it stands. Other sources know the
/// machine's own name by themselves, with its other addresses.
pub(super) fn name_service(system: &str) -> Option<String> {
    let is_hosts = |line: &str| line.trim_start().starts_with("hosts:");
    let sources = system.lines().find(|line| is_hosts(line))?;
    if sources.split_whitespace().nth(1) == Some("files") {
        return None;
    }
    let changed = |line: &str| if is_hosts(line) { "hosts: files dns".to_owned() } else { line.to_owned() };
    Some(system.lines().map(changed).collect::<Vec<_>>().join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 66, 1, 1);

    fn friend(name: &str, last: u8) -> Friend {
        Friend { name: name.into(), ip: Ipv4Addr::new(10, 66, 0, last) }
    }

    #[test]
    fn the_own_name_is_the_virtual_address() {
        let system =
            "127.0.0.1 localhost\n127.0.1.1\tAnns-PC.home Anns-PC # here\n\n::1 ip6-localhost\n127.0.1.1 anns-pc\n";
        let text = hosts(system, Some("anns-pc"), OWN, &[]);
        assert_eq!(
            text,
            "# made by lanrage play\n10.66.1.1 anns-pc\n127.0.0.1 localhost\n127.0.1.1 Anns-PC.home\n::1 ip6-localhost\n"
        );
        assert!(hosts("", None, OWN, &[]).lines().count() == 1);
    }

    #[test]
    fn friends_have_names_that_can_stand_for_nobody_else() {
        let friends = [
            friend("Bobs-PC", 2),
            friend("bobs-pc", 3),
            friend("LOCALHOST", 4),
            friend("me", 5),
            friend("nas", 6),
            friend("bank.example", 7),
            friend("two words", 8),
            friend("evil\n1.2.3.4 nas2", 9),
            friend("1234", 10),
            friend("0x7f", 11),
            friend("-x", 12),
            friend("日本", 13),
            friend("", 14),
            friend("WPAD", 15),
            friend("isatap", 16),
        ];
        let text = hosts("192.168.1.5 NAS\n", Some("me"), OWN, &friends);
        assert_eq!(text, "# made by lanrage play\n10.66.1.1 me\n192.168.1.5 NAS\n10.66.0.2 bobs-pc\n");
    }

    #[test]
    fn the_hosts_file_comes_first() {
        assert_eq!(name_service("passwd: files\nhosts:  files dns\n"), None);
        assert_eq!(name_service("passwd: files\n"), None);
        let arch = "passwd: files\nhosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n";
        assert_eq!(name_service(arch).as_deref(), Some("passwd: files\nhosts: files dns\n"));
    }

    proptest! {
        #[test]
        fn a_friend_adds_at_most_one_line(name in "\\PC{0,80}|[a-z\\n #.0-9-]{0,80}") {
            let with = hosts("1.2.3.4 x\n", Some("me"), OWN, &[friend(&name, 2)]);
            prop_assert!(with.lines().count() <= 4);
            prop_assert!(with.lines().take(3).eq(hosts("1.2.3.4 x\n", Some("me"), OWN, &[]).lines()));
        }

        #[test]
        fn any_file_keeps_the_own_name_first(system in "[a-z0-9.: \\t\\n#]{0,200}") {
            let text = hosts(&system, Some("me"), OWN, &[]);
            prop_assert_eq!(text.lines().nth(1), Some("10.66.1.1 me"));
            let others = text.lines().skip(2).flat_map(|line| line.split_whitespace().skip(1));
            prop_assert!(others.into_iter().all(|name| name != "me"));
        }
    }
}
