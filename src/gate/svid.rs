//! The newest X.509-SVID that the Workload API gave: followed in the background, shown at each connection.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protem_proto::wire::spiffe::{X509svid, X509svidResponse};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::connect::Shows;
use crate::workload::{ANSWER_WITHIN, Trouble, Workload, chosen};

/// An X.509-SVID with what came with it.
#[derive(Debug)]
pub struct Svid {
    /// Whose it is, by the agent's word; the certificate says it to everybody else.
    pub id: String,
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// The roots of its own trust domain.
    pub roots: Vec<CertificateDer<'static>>,
}

/// What is known of the agent at a moment.
#[derive(Clone, Debug, Default)]
struct Now {
    svid: Option<Arc<Svid>>,
    /// What went wrong since.
    trouble: Option<Trouble>,
}

/// This process's X.509-SVID; each connection shows the newest.
#[derive(Debug)]
pub struct X509Source {
    workload: Workload,
    now: watch::Receiver<Now>,
    /// What the follower works with, until somebody first asks.
    idle: Mutex<Option<Follower>>,
}

impl X509Source {
    /// The one with this hint, or the default one. Nobody is asked before [`Self::ready`].
    #[must_use]
    pub fn new(workload: Workload, hint: Option<String>) -> Self {
        let (tell, now) = watch::channel(Now::default());
        let follower = Follower { workload: workload.clone(), hint, tell };
        Self { workload, now, idle: Mutex::new(Some(follower)) }
    }

    /// The newest SVID; the first is waited for a moment, as an agent may start after its workload.
    ///
    /// # Errors
    /// When the agent gives none.
    pub async fn ready(&self) -> Result<Arc<Svid>, Trouble> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(follower) = idle {
            tokio::spawn(follower.follow());
        }
        let mut now = self.now.clone();
        let told = |now: &Now| {
            now.svid.is_some() || now.trouble.as_ref().is_some_and(|why| !why.may_pass())
        };
        // Whether it came or time is up, what is known now is the answer.
        let _ = tokio::time::timeout(FIRST_WITHIN, now.wait_for(told)).await;
        self.newest()
    }

    /// The newest SVID that there is.
    ///
    /// # Errors
    /// When there is none, with the reason.
    pub fn newest(&self) -> Result<Arc<Svid>, Trouble> {
        let now = self.now.borrow();
        let late = || Trouble::Late(self.workload.socket().clone());
        now.svid.clone().ok_or_else(|| now.trouble.clone().unwrap_or_else(late))
    }

    /// What is wrong with the agent now, while the last SVID is still at hand.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.now.borrow().trouble.clone()
    }

    /// Where it comes from.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }
}

impl Shows for X509Source {
    fn newest(&self) -> io::Result<Arc<CertifiedKey>> {
        let newest = X509Source::newest(self).map_err(io::Error::other)?;
        Ok(Arc::clone(&newest.key))
    }
}

/// Keeps the newest SVID until nobody wants it any more.
#[derive(Debug)]
struct Follower {
    workload: Workload,
    hint: Option<String>,
    tell: watch::Sender<Now>,
}

impl Follower {
    async fn follow(self) {
        let mut pause = PAUSE_FIRST;
        loop {
            let trouble = tokio::select! {
                () = self.tell.closed() => return,
                trouble = self.stream(&mut pause) => trouble,
            };
            self.troubled(trouble);
            tokio::select! {
                () = self.tell.closed() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
        }
    }

    /// One stream, from its opening to its end.
    async fn stream(&self, pause: &mut Duration) -> Trouble {
        let mut answers = match self.workload.x509_svids().await {
            Ok(answers) => answers,
            Err(trouble) => return trouble,
        };
        let late = |_| Trouble::Late(self.workload.socket().clone());
        let mut next = match tokio::time::timeout(ANSWER_WITHIN, answers.message()).await {
            Ok(next) => next,
            Err(elapsed) => return late(elapsed),
        };
        loop {
            match next {
                Ok(Some(answer)) => match self.read(answer) {
                    Ok(svid) => {
                        *pause = PAUSE_FIRST;
                        self.tell.send_replace(Now { svid: Some(Arc::new(svid)), trouble: None });
                    }
                    Err(trouble) => self.troubled(trouble),
                },
                Ok(None) => {
                    let why = "it ended the stream".to_owned();
                    return Trouble::Unreachable(self.workload.socket().clone(), why);
                }
                Err(status) => return self.workload.trouble(&status),
            }
            // An agent that never stops talking is heard this often; what it says meanwhile waits on its side.
            tokio::time::sleep(HEARD_EVERY).await;
            next = answers.message().await;
        }
    }

    /// An agent that took the identity back is believed; one that is away, or says nonsense, takes nothing.
    fn troubled(&self, trouble: Trouble) {
        self.tell.send_modify(|now| {
            if matches!(trouble, Trouble::Denied(..) | Trouble::Empty(_)) {
                now.svid = None;
            }
            now.trouble = Some(trouble);
        });
    }

    fn read(&self, answer: X509svidResponse) -> Result<Svid, Trouble> {
        let socket = self.workload.socket();
        let one = chosen(answer.svids, self.hint.as_deref(), |svid| &svid.hint, socket)?;
        svid(one).map_err(|why| Trouble::Unfit(socket.clone(), why))
    }
}

/// Checks that a certificate goes with its key; who trusts it is for those it is shown to.
fn svid(said: X509svid) -> Result<Svid, String> {
    let chain = certificates(&said.x509_svid, CHAIN_MAX)?;
    if chain.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    let der = Zeroizing::new(said.x509_svid_key);
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(der.as_slice()));
    let key = ring::sign::any_supported_type(&der)
        .map_err(|why| format!("its key is none that can be used: {why}"))?;
    let key = CertifiedKey::new(chain, key);
    key.keys_match().map_err(|why| format!("the key does not go with the certificate: {why}"))?;
    let roots = certificates(&said.bundle, ROOTS_MAX)?;
    Ok(Svid { id: said.spiffe_id, key: Arc::new(key), roots })
}

/// Certificates in DER, one behind the other, as the Workload API sends them; each begins with its own length.
///
/// # Errors
/// When it is no DER, or holds more than `max`.
pub fn certificates(mut der: &[u8], max: usize) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let whole = sequence(der).and_then(|size| der.split_at_checked(size));
        let Some((one, rest)) = whole else { return Err("it is no DER".to_owned()) };
        found.push(CertificateDer::from(one.to_vec()));
        if found.len() > max {
            return Err(format!("it holds more than {max} certificates"));
        }
        der = rest;
    }
    Ok(found)
}

/// How long a SEQUENCE in DER is, with its head (X.690 §8.1.3, §10.1).
fn sequence(der: &[u8]) -> Option<usize> {
    let (&[0x30, first], rest) = der.split_first_chunk()? else { return None };
    let count = usize::from(first & 0x7f);
    if first < 0x80 {
        return count.checked_add(2);
    }
    let size = rest.get(..count).filter(|size| (1..=3).contains(&size.len()))?;
    let size = size.iter().fold(0_usize, |size, byte| size << 8 | usize::from(*byte));
    size.checked_add(count)?.checked_add(2)
}

/// How long the first SVID is waited for: agents hear of a new workload some seconds after it starts, and a person waits.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// The first pause before asking an agent again; doubled up to the last, so that a restarted one is found soon.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often an agent is listened to at most.
const HEARD_EVERY: Duration = Duration::from_millis(200);
/// The longest chain: a leaf and a few intermediates; the broker takes no longer one.
const CHAIN_MAX: usize = 8;
/// How many roots a trust domain may have at a time, old and new ones.
const ROOTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(der: &[u8], expect: Result<&[usize], &str>) {
        let found = certificates(der, 3);
        let sizes = found.map(|all| all.iter().map(|one| one.len()).collect::<Vec<_>>());
        assert_eq!(sizes, expect.map(<[_]>::to_vec).map_err(str::to_owned), "{der:?}");
    }

    #[test]
    fn certificates_are_told_apart() {
        check(&[], Ok(&[]));
        check(&[0x30, 0], Ok(&[2]));
        check(&[0x30, 1, 9, 0x30, 0x81, 1, 9], Ok(&[3, 4]));
        check(&[0x30, 0x82, 0, 1, 9], Ok(&[5]));
        check(&[0x30, 0, 0x30, 0, 0x30, 0, 0x30, 0], Err("it holds more than 3 certificates"));
        for bad in [
            &[0x30_u8][..],
            &[0x31, 0],
            &[0x30, 1],
            &[0x30, 0x80],
            &[0x30, 0x84, 0, 0, 0, 0],
            &[0x30, 0x82, 1],
            &[0x30, 0xff, 0xff],
            &[0x30, 0x83, 0xff, 0xff, 0xff, 1],
        ] {
            check(bad, Err("it is no DER"));
        }
    }
}
