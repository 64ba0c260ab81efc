//! Who is signed in to the page: kept in memory, found by a digest of the cookie, bounded in number and life.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use protem_clock::random;
use tokio::sync::watch;

use crate::policy::login::Caller;
use crate::serve::caller::SignedIn;
use crate::serve::grounds::KeyPrint;
use crate::serve::ui::limits::{SESSION_IDLE, SESSIONS_MAX, SESSIONS_OF_ONE_MAX};

/// All of them.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<KeyPrint, Arc<Session>>>);

/// One browser of one person.
pub struct Session {
    id: KeyPrint,
    /// Who, and why that was believed. It is judged anew at each request.
    pub signed_in: Arc<SignedIn>,
    csrf: String,
    began: Duration,
    /// Milliseconds of the monotonic clock when it was last used by a person.
    used: AtomicU64,
    ended: watch::Sender<bool>,
}

impl Sessions {
    /// A new one, and the cookie's value. The value is of no use to whoever reads our memory: only its digest stays.
    pub fn begin(&self, signed_in: Arc<SignedIn>, now: Duration) -> (Arc<Session>, String) {
        let fresh = || BASE64URL_NOPAD.encode(&random::bytes::<32>());
        let (value, csrf) = (fresh(), fresh());
        let session = Arc::new(Session {
            id: print(&value),
            signed_in,
            csrf,
            began: now,
            used: AtomicU64::new(millis(now)),
            ended: watch::Sender::new(false),
        });
        let mut all = self.lock();
        all.retain(|_, known| known.is_fresh(now) || known.end());
        let own: Vec<_> = all.values().filter(|known| known.is_of(&session)).cloned().collect();
        if own.len() >= SESSIONS_OF_ONE_MAX {
            drop_oldest(&mut all, own);
        }
        if all.len() >= SESSIONS_MAX {
            let everybody = all.values().cloned().collect();
            drop_oldest(&mut all, everybody);
        }
        all.insert(session.id, Arc::clone(&session));
        (session, value)
    }

    /// The session of a cookie.
    #[must_use]
    pub fn find(&self, value: &str, now: Duration) -> Option<Arc<Session>> {
        let found = self.lock().get(&print(value)).cloned()?;
        found.is_fresh(now).then_some(found)
    }

    /// Ends one, and all that is open under it.
    pub fn end(&self, session: &Session) {
        self.lock().remove(&session.id);
        session.end();
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<KeyPrint, Arc<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// What its forms must hold.
    #[must_use]
    pub fn csrf(&self) -> &str {
        &self.csrf
    }

    /// Whether a form holds it. Digests are compared, so that time tells nothing of it.
    #[must_use]
    pub fn sent(&self, token: &str) -> bool {
        print(token) == print(&self.csrf)
    }

    /// A person used it.
    pub fn touch(&self, now: Duration) {
        self.used.fetch_max(millis(now), Ordering::Relaxed);
    }

    /// Done when it has ended.
    pub async fn ended(&self) {
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn end(&self) -> bool {
        self.ended.send_replace(true);
        false
    }

    fn is_fresh(&self, now: Duration) -> bool {
        let idle = millis(now).saturating_sub(self.used.load(Ordering::Relaxed));
        idle <= millis(SESSION_IDLE)
    }

    fn is_of(&self, other: &Self) -> bool {
        let actor = |one: &Self| one.signed_in.who.as_ref().map(Caller::actor).ok();
        actor(self) == actor(other)
    }
}

/// Of these the one that nobody used for the longest time makes room.
fn drop_oldest(all: &mut HashMap<KeyPrint, Arc<Session>>, of: Vec<Arc<Session>>) {
    let key = |one: &Arc<Session>| (one.used.load(Ordering::Relaxed), one.began);
    if let Some(oldest) = of.into_iter().min_by_key(key) {
        all.remove(&oldest.id);
        oldest.end();
    }
}

fn print(secret: &str) -> KeyPrint {
    KeyPrint::of(&[b"page", secret.as_bytes()])
}

fn millis(of: Duration) -> u64 {
    u64::try_from(of.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protem_verify::ids::Hash;
    use protem_verify::names::PersonName;
    use protem_verify::time::Time;

    use super::*;
    use crate::policy::login::{Login, Person, Principal};
    use crate::serve::grounds::Grounds;

    fn person(name: &str) -> Arc<SignedIn> {
        let login = Arc::new(Login {
            issuer: "corp".into(),
            subject: name.into(),
            claims: BTreeMap::new(),
        });
        let person = Person::new(PersonName::try_from(name).unwrap(), vec![]);
        let key = KeyPrint::of(&[b"key"]);
        Arc::new(SignedIn {
            who: Ok(Caller { principal: Principal::Person(person), login: Arc::clone(&login) }),
            login,
            issuer: "https://idp.example".into(),
            expires: Time::from_secs(9),
            bundle: Hash([0; 32]),
            grounds: Grounds::Token { issuer: "corp".into(), audience: "protem".into(), key },
            generation: 0,
        })
    }

    #[test]
    fn a_session_is_found_by_its_cookie_until_it_ends_or_is_left_alone() {
        let (sessions, at) = (Sessions::default(), Duration::from_secs);
        let (session, value) = sessions.begin(person("alice"), at(1));
        assert!(sessions.find(&value, at(2)).is_some());
        assert!(sessions.find("another", at(2)).is_none());
        assert!(session.sent(session.csrf()) && !session.sent(&value) && !session.sent(""));
        let idle = at(1) + SESSION_IDLE;
        assert!(sessions.find(&value, idle).is_some());
        assert!(sessions.find(&value, idle + at(1)).is_none());
        session.touch(idle);
        assert!(sessions.find(&value, idle + at(1)).is_some());
        sessions.end(&session);
        assert!(sessions.find(&value, idle).is_none());
    }

    #[tokio::test]
    async fn one_person_has_a_few_and_the_oldest_makes_room() {
        let (sessions, at) = (Sessions::default(), Duration::from_secs);
        let (other, others) = sessions.begin(person("bob"), at(0));
        let mut all = Vec::new();
        for second in 1..=u64::try_from(SESSIONS_OF_ONE_MAX).unwrap() + 1 {
            all.push(sessions.begin(person("alice"), at(second)));
        }
        assert_eq!(sessions.count(), SESSIONS_OF_ONE_MAX + 1);
        assert!(
            sessions.find(&all[0].1, at(20)).is_none()
                && sessions.find(&all[1].1, at(20)).is_some()
        );
        all[0].0.ended().await;
        assert!(sessions.find(&others, at(20)).is_some());
        drop(other);
    }
}
