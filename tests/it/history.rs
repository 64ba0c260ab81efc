//! What the clients of a broker were told, and what must therefore be true.

use std::collections::{BTreeMap, HashMap};

use protem_proto::wire::v1;
use protem_proto::wire::v1::GrantState;

/// Every acknowledged answer.
#[derive(Debug, Default)]
pub struct History {
    /// By grant.
    pub asked: BTreeMap<String, Asked>,
    /// Acknowledged ends of single grants: the journal position that a view must have applied.
    ended: HashMap<String, u64>,
    /// Acknowledged cut-offs of identities: all grants activated at or before the position are void.
    cut_off: Vec<(String, u64)>,
    /// What two answers contradict each other about.
    pub wrong: Vec<String>,
    /// How many answers were the second of their request.
    pub repeated: u32,
}

/// A request and its first answer.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was asked, to ask it again.
    pub request: v1::RequestAccessRequest,
    /// Who asked.
    pub by: String,
    /// The grant.
    pub grant: v1::Grant,
    /// Its credential, unless it had ended before the first answer came through.
    pub token: Option<String>,
}

impl History {
    /// An answer to a request, the first or a repeated one.
    pub fn answered(
        &mut self,
        by: &str,
        request: &v1::RequestAccessRequest,
        answer: v1::RequestAccessResponse,
    ) {
        let grant = answer.grant.unwrap_or_default();
        let token = answer.credential.map(|credential| credential.token);
        let key = &request.request_id;
        if token.is_none() && grant.state() != GrantState::Ended {
            self.wrong.push(format!("{key}: {} is alive without a credential", grant.id));
        }
        let same_key = |(_, asked): &(&String, &Asked)| asked.request.request_id == *key;
        // The newest ones are the likely ones, and a few hundred is more than are ever in flight.
        let before = self.asked.iter().rev().take(LATE_MAX).find(same_key);
        if let Some((id, _)) = before {
            self.repeated += 1;
            if *id != grant.id {
                self.wrong.push(format!("{key}: first {id}, then {}", grant.id));
            }
        }
        match self.asked.get_mut(&grant.id) {
            None => {
                let (request, by, id) = (request.clone(), by.to_owned(), grant.id.clone());
                self.asked.insert(id, Asked { request, by, grant, token });
            }
            Some(before) => {
                if before.request.request_id != *key {
                    let other = &before.request.request_id;
                    self.wrong.push(format!("{}: answers both {other} and {key}", grant.id));
                }
                match (&before.token, token) {
                    (Some(old), Some(new)) if *old != new => {
                        self.wrong.push(format!("{key}: {} has two tokens", grant.id));
                    }
                    (None, Some(_)) => {
                        self.wrong.push(format!("{key}: {} came to life again", grant.id))
                    }
                    (Some(_) | None, _) => {}
                }
            }
        }
    }

    /// A grant's end that was acknowledged at `seq`.
    pub fn ended(&mut self, grant: &str, seq: u64) {
        self.ended.entry(grant.to_owned()).or_insert(seq);
    }

    /// The end of all access of an identity that was acknowledged at `seq`.
    pub fn cut_off(&mut self, identity: &str, seq: u64) {
        self.cut_off.push((identity.to_owned(), seq));
    }

    /// Whether a grant must be alive now, all answers being in.
    pub fn lives(&self, asked: &Asked) -> bool {
        let covers =
            |(identity, seq): &(String, u64)| *identity == asked.by && asked.grant.seq <= *seq;
        let ended = asked.grant.state() == GrantState::Ended;
        !ended && !self.ended.contains_key(&asked.grant.id) && !self.cut_off.iter().any(covers)
    }

    /// The journal position of the newest acknowledged answer: no broker may ever stand before it.
    pub fn newest(&self) -> u64 {
        let asked = self.asked.values().map(|asked| asked.grant.seq);
        let ended = self.ended.values().copied();
        let cut_off = self.cut_off.iter().map(|(_, seq)| *seq);
        asked.chain(ended).chain(cut_off).max().unwrap_or(0)
    }

    /// How many ends were acknowledged.
    pub fn ends(&self) -> usize {
        self.ended.len() + self.cut_off.len()
    }
}

/// How far back a late second answer is looked for.
const LATE_MAX: usize = 500;
