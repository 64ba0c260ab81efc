//! Every event comes back from its bytes as it was, field by field.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::{any, proptest};
use prost::Message;
use protem_core::event::{
    Activated, Actor, Asked, CredentialIssued, EndReason, Event, KeyPurpose, PublicKey, Target,
};
use protem_core::limits::LIFETIME_MAX;
use protem_core::request::{AccessRequest, ProofKey, Workload};
use protem_core::verdict::{ApprovalRule, Effect, Ruling, Standing, Terms};
use protem_proto::wire::journal as wire;
use protem_verify::ids::{Epoch, GrantId, Hash, HoldId, JournalId, RequestId, Seq};
use protem_verify::merkle::leaf;
use protem_verify::names::{KeyId, Words};
use protem_verify::time::{Lifetime, Staleness, Time};

use crate::journal::codec::{decode, encode, kind};
use crate::journal::testbed::{START, asked, ended, id, issued, person, requested, scopes, words};

/// Picks from one random number after the other; when they run out, the plainest.
struct Pick(Vec<u64>);

impl Pick {
    fn number(&mut self) -> u64 {
        self.0.pop().unwrap_or(0)
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        let at = usize::try_from(self.number()).unwrap() % all.len();
        all[at].clone()
    }

    fn maybe<T>(&mut self, value: T) -> Option<T> {
        (self.number() % 2 == 1).then_some(value)
    }

    fn time(&mut self) -> Time {
        Time::from_millis(self.number() >> 20)
    }

    fn millis(&mut self) -> Duration {
        Duration::from_millis(self.number() >> 20)
    }

    fn words(&mut self) -> Words {
        self.of(&[Words::default(), words("as agreed"), words("größer „so“ 🦀")])
    }

    fn proof(&mut self) -> Option<ProofKey> {
        let all = [ProofKey::Thumbprint([5; 32]), ProofKey::Certificate([0; 32])];
        let one = self.of(&all);
        self.maybe(one)
    }

    fn workload(&mut self) -> Workload {
        let subject = self.of(&["spiffe://a/b", "https://issuer|42"]);
        let identity = self.of(&["team/a", "b"]);
        Workload { identity: identity.try_into().unwrap(), subject: subject.try_into().unwrap() }
    }

    fn request(&mut self) -> AccessRequest {
        let key = RequestId([7; 16]);
        let life = Lifetime(self.millis());
        let mut request = asked(self.number() % 9).request;
        request.by = self.workload();
        request.scopes = self.of(&[scopes(&["a"]), scopes(&["a", "b:c"])]);
        request.lifetime = self.maybe(life);
        request.purpose = self.words();
        request.key = self.maybe(key);
        request.emergency = self.number() % 2 == 1;
        request.proof = self.proof();
        request.task.kind = self.of(&["", "ci-job"]).try_into().unwrap();
        request.task.url = self.words();
        request
    }

    fn terms(&mut self) -> Terms {
        let claims: Vec<(Arc<str>, Arc<str>)> =
            self.of(&[vec![], vec![("https://a/b".into(), "".into()), ("c/d".into(), "e".into())]]);
        Terms {
            lifetime: Lifetime(self.millis()),
            credential: Lifetime(self.millis()),
            fresh: Staleness(self.millis()),
            audience: self.of(&["", "https://orders"]).into(),
            claims: claims.into(),
            operations: self.of(&[vec![], vec![Arc::from("orders:read GET /v1")]]).into(),
            active_max: self.of(&[0, 1, u32::MAX]),
            pending_max: self.of(&[0, 1, u32::MAX]),
        }
    }

    fn rule(&mut self) -> ApprovalRule {
        let remind = self.millis();
        ApprovalRule {
            required: self.of(&[1, u16::MAX]),
            decide_within: self.millis(),
            remind: self.maybe(remind),
            then: self.maybe("leads".try_into().unwrap()),
            policies: Hash([3; 32]),
            groups: self.of(&[vec![], vec!["owners".try_into().unwrap()]]),
        }
    }

    fn ruling(&mut self) -> Ruling {
        let rule = self.rule();
        let active = self.of(&[0, 5]);
        Ruling {
            content: Hash([self.of(&[0, 9]); 32]),
            effect: self.of(&[Effect::Issue, Effect::NeedsApproval, Effect::Deny]),
            policies: self.of(&[vec![], vec!["one".try_into().unwrap()]]),
            bundle: Hash([4; 32]),
            at: self.time(),
            terms: self.terms(),
            limits: self.of(&[vec![], vec!["lifetime 15m".to_owned(), String::new()]]),
            findings: self.of(&[vec![], vec!["first".to_owned()]]),
            code: self.of(&["", "PT-0301"]).into(),
            remedy: self.of(&["", "ask for less"]).into(),
            rule: self.maybe(rule),
            active: self.maybe(active),
            input: self.of(&["", "{\"a\":1}"]).as_bytes().into(),
        }
    }

    fn credential(&mut self) -> CredentialIssued {
        let seq = Seq(self.number().max(1));
        CredentialIssued {
            grant: GrantId(u128::from(self.number()).to_be_bytes()),
            number: self.of(&[0, 1, u32::MAX]),
            by: self.workload(),
            task: asked(self.number() % 9).request.task.id,
            resource: self.of(&["orders-api", "other"]).try_into().unwrap(),
            scopes: self.of(&[scopes(&["a"]), scopes(&["a", "b:c"])]),
            terms: self.terms(),
            key: KeyId::try_from("k1").unwrap(),
            iat: self.time(),
            exp: self.time(),
            until: self.time(),
            activated: self.maybe(seq),
            epoch: Epoch(self.number()),
            proof: self.proof(),
        }
    }

    /// An activation whose credential says what its request says, but for a few fields.
    fn activated(&mut self) -> Activated {
        let asked = Asked { request: self.request(), ruling: self.ruling() };
        let (until, other) = (self.time(), self.credential());
        let request = &asked.request;
        let mut issued = CredentialIssued {
            by: request.by.clone(),
            task: request.task.id.clone(),
            resource: request.resource.clone(),
            scopes: request.scopes.clone(),
            terms: asked.ruling.terms.clone(),
            proof: request.proof.clone(),
            until,
            ..other.clone()
        };
        match self.number() % 8 {
            0 => issued.by = other.by,
            1 => issued.task = other.task,
            2 => issued.resource = other.resource,
            3 => issued.scopes = other.scopes,
            4 => issued.terms = other.terms,
            5 => issued.proof = other.proof,
            6 => issued.until = other.until,
            _ => {}
        }
        Activated { asked: self.maybe(asked), until, credential: issued }
    }

    fn target(&mut self) -> Target {
        let (name, resource) = ("team/a".try_into().unwrap(), "orders-api".try_into().unwrap());
        let task = asked(1).request.task.id;
        match self.number() % 7 {
            0 => Target::Grant(id(3)),
            1 => Target::Task(name, task),
            2 => Target::Identity(name),
            3 => Target::Resource(resource),
            4 => Target::Scope(resource, "a:b".try_into().unwrap()),
            5 => Target::Key(KeyId::try_from("k1").unwrap()),
            _ => Target::Everything,
        }
    }

    fn reason(&mut self) -> EndReason {
        self.of(&[
            EndReason::Completed,
            EndReason::Expired,
            EndReason::Abandoned,
            EndReason::Revoked,
            EndReason::Denied,
            EndReason::Lapsed,
            EndReason::Withdrawn,
            EndReason::Policy,
            EndReason::Quarantined,
            EndReason::Fenced,
        ])
    }

    fn event(&mut self) -> Event {
        let (grant, digest, by) = (id(self.number()), Hash([6; 32]), person("alice"));
        let identity = "team/a".try_into().unwrap();
        match self.number() % 25 {
            0 => Event::JournalOpened {
                journal: JournalId([2; 16]),
                epoch: Epoch(self.number()),
                issuer: self.of(&["", "https://protem"]).into(),
                dev: self.number() % 2 == 1,
            },
            1 => Event::EpochBegan { epoch: Epoch(self.number()), note: self.words() },
            2 => Event::BundleActivated {
                digest,
                files: self.of(&[vec![], vec![("a.cedar".into(), [0, 255].into())]]).into(),
            },
            3 => Event::BundleSettled { digest },
            4 => Event::GrantsConfirmed { digest, grants: self.of(&[vec![], vec![grant, id(1)]]) },
            5 => {
                let mut event = requested(self.number() % 9).event;
                if let Event::GrantRequested(requested) = &mut event {
                    requested.behind = self.maybe(by);
                    requested.asked = Asked { request: self.request(), ruling: self.ruling() };
                    requested.decide_by = self.time();
                }
                event
            }
            6 => Event::RequestReevaluated { grant, ruling: Box::new(self.ruling()), digest },
            7 | 8 => Event::GrantActivated(Box::new(self.activated())),
            9 => Event::CredentialIssued(Box::new(self.credential())),
            10 => {
                let (key, content) = (RequestId([7; 16]), digest);
                Event::RequestRepeated { identity, key, content, grant }
            }
            11 => {
                let (request, ruling) = (self.request(), self.ruling());
                Event::AccessRefused(Box::new(Asked { request, ruling }))
            }
            12 => {
                let mut event = ended(self.number() % 9).event;
                let (seq, time) = (Seq(self.number().max(1)), Time::from_millis(5));
                if let Event::GrantEnded(ended) = &mut event {
                    ended.reason = self.reason();
                    ended.note = self.words();
                    ended.ended = self.time();
                    ended.last_exp = self.maybe(time);
                    ended.told_by = self.maybe(seq);
                }
                event
            }
            number => self.smaller(number),
        }
    }

    fn smaller(&mut self, number: u64) -> Event {
        let (grant, digest, by) = (id(self.number()), Hash([6; 32]), person("alice"));
        let identity = "team/a".try_into().unwrap();
        let key = KeyId::try_from("k1").unwrap();
        let task = asked(1).request.task.id;
        match number {
            13 => {
                let standing = Standing {
                    account: self.of(&["", "corp|alice"]).into(),
                    groups: self.of(&[vec![], vec!["a".try_into().unwrap()]]),
                    policies: Vec::new(),
                };
                Event::ApprovalGiven { grant, by, reason: self.words(), digest, standing }
            }
            14 => {
                let then = self.maybe("a".try_into().unwrap());
                self.of(&[
                    Event::ApprovalTakenBack { grant, by },
                    Event::RequestReminded { grant, then },
                ])
            }
            15 => {
                let (scopes, lifetime) = (scopes(&["a"]), Lifetime(self.millis()));
                Event::RequestNarrowed { grant, by, scopes, lifetime, digest }
            }
            16 => Event::ReviewClosed { grant, by, note: self.words() },
            17 => Event::TaskHeld { identity, task, hold: HoldId([8; 16]), lease: self.millis() },
            18 => {
                let (reason, outcome) = (self.reason(), self.words());
                Event::TaskEnded { identity, task, reason, outcome }
            }
            19 => {
                let forget = self.time();
                Event::CutOff {
                    target: self.target(),
                    reason: self.reason(),
                    note: self.words(),
                    forget_after: self.maybe(forget),
                }
            }
            20 => Event::IdentityQuarantined { identity, note: self.words() },
            21 => Event::QuarantineLifted { identity, note: self.words() },
            22 => Event::KeyPublished(PublicKey {
                id: key,
                purpose: self.of(&[KeyPurpose::Credential, KeyPurpose::Checkpoint]),
                public: [9; 32],
            }),
            23 => {
                let note = self.words();
                self.of(&[
                    Event::KeyActivated { key: key.clone() },
                    Event::KeyRetired { key: key.clone() },
                    Event::KeyRotationAsked { key: key.clone(), note },
                ])
            }
            _ => Event::KeyForgotten { key },
        }
    }
}

proptest! {
    #[test]
    fn every_event_comes_back_as_it_was(numbers in proptest::collection::vec(any::<u64>(), 64)) {
        let event = Pick(numbers).event();
        let actor = Actor("person:alice".into());
        let (seq, at) = (Seq(42), Time::from_millis(7));
        let body = encode(seq, at, &actor, &event);
        let back = decode(seq, &body).unwrap();
        assert_eq!(back.what(), &event);
        assert_eq!((back.seq(), back.at(), back.actor()), (seq, at, &actor));
        assert!(decode(Seq(43), &body).is_err(), "an entry under another place");
        // The same event has the same bytes wherever it is encoded: leaves of two brokers agree.
        assert_eq!(encode(seq, at, &actor, back.what()), body, "{}", kind(&event));
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(Seq(1), &bytes);
    }
}

#[test]
fn a_credential_costs_no_second_copy_of_its_request() {
    let plain = |activated| encode(Seq(1), Time::ZERO, &Actor("a".into()), &activated).len();
    let asked = asked(1);
    let whole =
        Activated { asked: Some(asked.clone()), until: issued(1).until, credential: issued(1) };
    let refused = plain(Event::AccessRefused(Box::new(asked)));
    let granted = plain(Event::GrantActivated(Box::new(whole)));
    assert!(granted < refused + 120, "{granted} bytes, {refused} without a credential");
}

/// What was written before ends said when the last credential dies must not let a gateway forget one too early.
#[test]
fn an_end_of_before_is_remembered_for_as_long_as_any_credential_may_live() {
    let last_exp = |of_all, last_exp_ms| {
        let body = encode(Seq(1), Time::ZERO, &Actor("a".into()), &ended(1).event);
        let mut entry = wire::Entry::decode(body.as_slice()).unwrap();
        let Some(wire::entry::Event::GrantEnded(row)) = &mut entry.event else { panic!() };
        (row.of_all, row.last_exp_ms) = (of_all, last_exp_ms);
        let back = decode(Seq(1), &entry.encode_to_vec()).unwrap();
        let Event::GrantEnded(ended) = back.what() else { panic!() };
        ended.last_exp.map(|last| last.since(ended.ended))
    };
    let exp = (START + Duration::from_secs(300)).as_millis();
    assert_eq!(last_exp(true, exp), Some(Duration::from_secs(300)));
    assert_eq!(last_exp(false, exp), Some(LIFETIME_MAX));
    assert_eq!(last_exp(false, 0), None, "it never had one");
}

/// The leaf of a fixed entry never changes: what was signed once must verify for ever.
#[test]
fn the_form_of_an_entry_stays() {
    let event = Event::KeyRetired { key: KeyId::try_from("k1").unwrap() };
    let body = encode(Seq(3), Time::from_millis(1_000), &Actor("system".into()), &event);
    let expect = "080310e8071a0673797374656d220b6b65792e726574697265648a02040a026b31";
    assert_eq!(data_encoding::HEXLOWER.encode(&body), expect, "leaf {}", leaf(&body));
}
