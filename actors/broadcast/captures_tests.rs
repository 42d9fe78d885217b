use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::task::{Context, Poll};

use super::super::interfaces::Interface;
use super::super::local::Local;
use super::*;

/// A system whose interfaces refuse as they are told.
#[derive(Default)]
struct Mock {
    opened: Vec<String>,
    forbidden: bool,
    broken: BTreeSet<String>,
}

struct Nothing;

impl Capture for Nothing {
    fn poll_packet(&mut self, _: &mut Context<'_>, _: &mut dyn FnMut(&[u8])) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn take_dropped(&mut self) -> u64 {
        3
    }
}

impl System for Mock {
    fn interfaces(&mut self) -> io::Result<Vec<Interface>> {
        Ok(Vec::new())
    }

    fn capture(&mut self, wanted: &Wanted) -> Result<Box<dyn Capture>, CaptureError> {
        self.opened.push(wanted.name.clone());
        if self.forbidden {
            return Err(CaptureError::Permission);
        }
        if self.broken.contains(&wanted.name) {
            return Err(CaptureError::System { step: "bind to the interface", source: io::ErrorKind::NotFound.into() });
        }
        Ok(Box::new(Nothing))
    }

    fn local(&mut self) -> io::Result<Local> {
        Ok(Local::default())
    }

    fn join(&mut self, _: &str, _: Ipv4Addr, _: &[Ipv4Addr]) -> Vec<(Ipv4Addr, io::Error)> {
        Vec::new()
    }
}

fn wanted(name: &str, last: u8) -> Wanted {
    let ip = Ipv4Addr::new(192, 168, 1, last);
    Wanted { name: name.into(), index: 2, sources: vec![ip], broadcasts: vec![[192, 168, 1, 255].into()] }
}

#[test]
fn interfaces_come_change_and_go() {
    let (mut captures, mut system) = (Captures::default(), Mock::default());
    assert_eq!(captures.settle(vec![wanted("eth0", 5), wanted("wlan0", 6)], &mut system), [0, 1]);
    let wlan = captures.generation(1);
    assert_eq!(captures.settle(vec![wanted("wlan0", 6)], &mut system), Vec::<u8>::new(), "it goes on");
    assert!(captures.get(0).is_none() && captures.get(1).is_some());
    assert_eq!(captures.generation(1), wlan);
    assert_eq!(captures.settle(vec![wanted("wlan0", 7)], &mut system), [0], "with another address it begins anew");
    assert_eq!(captures.running(), BTreeMap::from([(0, wanted("wlan0", 7))]));
    assert_eq!((captures.take_dropped(), captures.problem()), (3, None));
    assert_eq!(system.opened, ["eth0", "wlan0", "wlan0"]);
}

#[test]
fn what_is_refused_is_said_once_and_tried_again() {
    let mut captures = Captures::default();
    let mut system = Mock { forbidden: true, ..Mock::default() };
    assert_eq!(captures.settle(vec![wanted("eth0", 5)], &mut system), Vec::<u8>::new());
    assert!(captures.take_news().is_some_and(|text| text.contains("setcap cap_net_admin,cap_net_raw+ep")));
    assert_eq!(captures.take_news(), None);
    assert_eq!(captures.view()[0].state, CaptureState::NoPermission);
    assert!(captures.running().is_empty());
    system.forbidden = false;
    assert_eq!(captures.settle(vec![wanted("eth0", 5)], &mut system), [0]);
    captures.count(0);
    assert_eq!((captures.problem(), captures.view()[0].packets), (None, 1));
    captures.end(0, &io::ErrorKind::NotFound.into());
    assert!(captures.take_news().is_some_and(|text| text.contains("eth0")));
    system.broken.insert("eth0".into());
    assert_eq!(captures.settle(vec![wanted("eth0", 5)], &mut system), Vec::<u8>::new());
    assert_eq!(captures.view()[0].state, CaptureState::Failed);
    assert!(captures.get(0).is_none());
}
