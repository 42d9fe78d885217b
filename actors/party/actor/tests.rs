use actix::Addr;
use ed25519_dalek::SigningKey;

use super::*;
use crate::discovery::messages::BootstrapView;
use crate::wire::{Ipv4Range, WgPublicKey};

/// Stands in for every other actor.
#[derive(Default)]
struct Others {
    seeks: usize,
    addresses: Vec<SetAddress>,
    saved: Vec<StoredParty>,
    refuse_saves: bool,
    bootstrap_reached: bool,
}

impl Actor for Others {
    type Context = Context<Self>;
}

macro_rules! takes {
    ($($message:ty, |$this:ident, $it:ident| $body:expr;)*) => {$(
        impl Handler<$message> for Others {
            type Result = <$message as Message>::Result;

            fn handle(&mut self, $it: $message, _: &mut Self::Context) -> Self::Result {
                let $this = self;
                $body
            }
        }
    )*};
}

takes! {
    Seek, |this, _it| this.seeks += 1;
    SendFrame, |_this, _it| ();
    CloseLink, |_this, _it| ();
    SetPeers, |_this, _it| ();
    SetAddress, |this, it| this.addresses.push(it);
}

impl Handler<SaveParty> for Others {
    type Result = Result<(), StoreError>;

    fn handle(&mut self, it: SaveParty, _: &mut Self::Context) -> Self::Result {
        if self.refuse_saves {
            return Err(StoreError("disk full".into()));
        }
        self.saved.push(it.0);
        Ok(())
    }
}

impl Handler<GetDiscovery> for Others {
    type Result = MessageResult<GetDiscovery>;

    fn handle(&mut self, _: GetDiscovery, _: &mut Self::Context) -> Self::Result {
        let peer = BootstrapView {
            addr: "/ip4/192.0.2.1/tcp/4001".into(),
            reached: self.bootstrap_reached,
            last_error: Some("refused".into()),
        };
        MessageResult(DiscoveryView { bootstrap: vec![peer], ..DiscoveryView::default() })
    }
}

/// What the recorder has seen.
#[derive(Message)]
#[rtype(result = "(Vec<StoredParty>, Vec<SetAddress>)")]
struct Look;

impl Handler<Look> for Others {
    type Result = MessageResult<Look>;

    fn handle(&mut self, _: Look, _: &mut Self::Context) -> Self::Result {
        MessageResult((self.saved.clone(), self.addresses.clone()))
    }
}

fn start(others: Others, stored: Option<StoredParty>) -> (Addr<PartyActor>, Addr<Others>) {
    let identity = SigningKey::from_bytes(&[3; 32]);
    let config = PartyConfig::new(identity, WgPublicKey([4; 32]), "Ann".into(), Ipv4Range::DEFAULT, [5; 32]);
    let party = PartyActor::new(config, stored, vec![]).start();
    let others = others.start();
    let to = others.clone();
    party
        .try_send(Bind {
            seek: to.clone().recipient(),
            send_frame: to.clone().recipient(),
            close_link: to.clone().recipient(),
            set_peers: to.clone().recipient(),
            set_address: vec![to.clone().recipient()],
            save_party: to.clone().recipient(),
            get_discovery: to.recipient(),
        })
        .unwrap();
    party.try_send(Start).unwrap();
    (party, others)
}

fn run(test: impl Future<Output = ()>) {
    actix::System::new().block_on(test);
}

#[test]
fn a_party_is_saved_before_it_is_acknowledged_and_taken_up_again() {
    run(async {
        let (party, others) = start(Others::default(), None);
        let view = party.send(CreateParty { name: None }).await.unwrap().unwrap();
        assert_eq!(view.name, "Ann's party");
        let (saved, addresses) = others.send(Look).await.unwrap();
        assert_eq!(saved.last().map(|it| (it.id, it.active)), Some((view.id, true)));
        assert_eq!(addresses.last().and_then(|it| it.0).map(|it| it.ip), Some(view.virtual_ip));

        let (party, others) = start(Others::default(), saved.last().cloned());
        let again = party.send(GetParty).await.unwrap().unwrap();
        assert_eq!((again.code, again.virtual_ip), (view.code, view.virtual_ip));
        assert_eq!(party.send(ListParties).await.unwrap().len(), 1);
        party.send(LeaveParty).await.unwrap().unwrap();
        let (saved, addresses) = others.send(Look).await.unwrap();
        assert!(!saved.last().unwrap().active);
        assert_eq!(addresses.last(), Some(&SetAddress(None)));
        assert!(party.send(GetParty).await.unwrap().is_none());
    });
}

#[test]
fn what_cannot_be_saved_is_not_acknowledged() {
    run(async {
        let (party, others) = start(Others { refuse_saves: true, ..Others::default() }, None);
        let error = party.send(CreateParty { name: None }).await.unwrap().unwrap_err();
        assert_eq!(error, PartyError::Store("disk full".into()));
        assert!(party.send(GetParty).await.unwrap().is_none(), "and he is not in it");
        let (_, addresses) = others.send(Look).await.unwrap();
        assert_ne!(addresses.last().map(|it| it.0.is_some()), Some(true));
    });
}

#[test]
fn no_party_and_no_bootstrap_are_told_apart() {
    run(async {
        let timeout = Duration::from_millis(300);
        let join = || JoinParty { code_or_link: "4HMA-SW9N-F6YV".into(), timeout };
        let (party, _others) = start(Others::default(), None);
        let error = party.send(join()).await.unwrap().unwrap_err();
        assert_eq!(error, PartyError::NoBootstrap { waited: timeout, problem: "refused".into() });
        let (party, _others) = start(Others { bootstrap_reached: true, ..Others::default() }, None);
        let error = party.send(join()).await.unwrap().unwrap_err();
        assert_eq!(error, PartyError::NoSuchParty(timeout));
    });
}
