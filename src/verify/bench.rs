//! A small broker for tests: fixed keys, one resource, a view that it proves.

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use ed25519_dalek::{Signer, SigningKey};

    use crate::checkpoint::{Checkpoint, Signed};
    use crate::claims::Claims;
    use crate::fences::{Revocation, Target};
    use crate::ids::{Epoch, GrantId, Hash, JournalId, Seq};
    use crate::jws::{ACCESS_TOKEN, encode};
    use crate::keys::{jwks, thumbprint};
    use crate::known::Moment;
    use crate::names::{IdentityName, KeyId, ResourceName, ScopeName, Subject, TaskId};
    use crate::time::{Staleness, Time};
    use crate::verifier::{Call, Verdict, Verifier};
    use crate::view::{Broken, Claimed, Opened, View};

    pub(crate) const ISSUER: &str = "https://broker.example/eu1";
    pub(crate) const JOURNAL: JournalId = JournalId([7; 16]);
    pub(crate) const EPOCH: Epoch = Epoch(1_700_000_000_000);
    /// The broker's time in the first proof, in seconds.
    pub(crate) const NOW: u64 = 1_800_000_000;
    pub(crate) const CATALOG: &str = r#"{"resources":{
        "orders-api":{"audience":"https://orders.example","scopes":{
            "orders:read":{"risk":"low","operations":["GET /v1/orders","GET /v1/orders/{id}"]},
            "orders:refund":{"risk":"high","operations":["POST /v1/orders/{id}/refund"]}}},
        "crm":{"audience":"https://crm.example","scopes":{
            "crm:read":{"risk":"low","operations":["GET /v1/orders"]}}}}}"#;

    pub(crate) struct Bench {
        pub(crate) view: View,
        pub(crate) now: Moment,
        pub(crate) head: Seq,
        pub(crate) last_item: Seq,
    }

    pub(crate) fn key() -> SigningKey {
        SigningKey::from_bytes(&[11; 32])
    }

    pub(crate) fn checkpoint_key() -> SigningKey {
        SigningKey::from_bytes(&[22; 32])
    }

    pub(crate) fn kid(key: &SigningKey) -> KeyId {
        thumbprint(&key.verifying_key().to_bytes())
    }

    pub(crate) fn name<'a, T: TryFrom<&'a str>>(text: &'a str) -> T
    where
        T::Error: std::fmt::Debug,
    {
        T::try_from(text).unwrap()
    }

    pub(crate) fn moment(seconds: u64) -> Moment {
        let boot = Duration::from_secs(seconds);
        Moment { boot, unix: boot + Duration::from_secs(NOW) }
    }

    impl Bench {
        /// Opened, but nothing applied.
        pub(crate) fn opened() -> Self {
            let mut view = View::new(ISSUER, None);
            view.opened(&opened(EPOCH, JOURNAL)).unwrap();
            Self { view, now: moment(100), head: Seq(100), last_item: Seq(0) }
        }

        /// Proven at boot second 100, with this snapshot; one second has gone by.
        pub(crate) fn with(snapshot: &[Revocation]) -> Self {
            let mut bench = Self::opened();
            bench.keys_and_catalog();
            bench.snapshot(snapshot).unwrap();
            assert_eq!(bench.prove(moment(100)), Ok(true));
            bench.now = moment(101);
            bench
        }

        pub(crate) fn fresh() -> Self {
            Self::with(&[])
        }

        pub(crate) fn keys_and_catalog(&mut self) {
            let set = |key: SigningKey| jwks(&[key.verifying_key().to_bytes()]);
            self.view.keys(&set(key()), &set(checkpoint_key()), Seq(2));
            self.view.catalog(CATALOG, Seq(3));
        }

        pub(crate) fn snapshot(&mut self, items: &[Revocation]) -> Result<(), Broken> {
            let entries = u64::try_from(items.len()).unwrap();
            self.view.snapshot_begin(self.head, entries);
            self.view.revoked(items)?;
            self.last_item = items.iter().map(|item| item.seq).max().unwrap_or_default();
            self.view.snapshot_end(self.head, entries, self.last_item)
        }

        /// Appends an item in order.
        pub(crate) fn revoke(&mut self, target: Target) {
            self.head = self.head.next();
            let (seq, prev) = (self.head, self.last_item);
            self.view.revoked(&[Revocation { seq, prev, target, forget_after: None }]).unwrap();
            self.last_item = seq;
        }

        pub(crate) fn signed(&self) -> Signed {
            let at = Time::from_secs(NOW + self.now.boot.as_secs() - 100);
            let (journal, epoch, seq, root) = (JOURNAL, EPOCH, self.head, Hash([9; 32]));
            Checkpoint { journal, epoch, seq, at, root }.sign(&checkpoint_key())
        }

        pub(crate) fn claimed(&self) -> Claimed {
            Claimed { last_sent: self.last_item, keys_seq: Seq(2), catalog_seq: Seq(3) }
        }

        /// A proof of a ping that was sent at `sent` and is answered now.
        pub(crate) fn prove(&mut self, sent: Moment) -> Result<bool, Broken> {
            let (signed, claimed, now) = (self.signed(), self.claimed(), self.now);
            self.view.checkpoint(&signed, claimed, Some(sent), now)
        }

        pub(crate) fn check(&self, token: &str) -> Verdict {
            self.call(token, "GET", "/v1/orders")
        }

        pub(crate) fn call(&self, token: &str, method: &str, path: &str) -> Verdict {
            let resource = name::<ResourceName>("orders-api");
            let call = Call { resource: &resource, method, path };
            Verifier::new(self.view.reader()).check(token, &call, self.now)
        }

        /// The code of the refusal, or `allow`.
        pub(crate) fn says(&self, token: &str) -> &'static str {
            said(&self.check(token))
        }
    }

    pub(crate) fn said(verdict: &Verdict) -> &'static str {
        match verdict {
            Verdict::Allow(_) => "allow",
            Verdict::Deny(reason) => reason.code().id,
        }
    }

    pub(crate) fn opened(epoch: Epoch, journal: JournalId) -> Opened {
        let max_staleness = Duration::from_secs(60);
        Opened { journal, epoch, issuer: ISSUER.into(), max_staleness }
    }

    pub(crate) fn claims() -> Claims {
        Claims {
            issuer: ISSUER.into(),
            subject: name::<Subject>("spiffe://shop.example/ns/pay/sa/agent"),
            identity: name::<IdentityName>("payments/agent"),
            grant: GrantId([5; 16]),
            number: 0,
            issued: Time::from_secs(NOW - 10),
            not_before: Time::from_secs(NOW - 10),
            expires: Time::from_secs(NOW + 290),
            scopes: vec![name::<ScopeName>("orders:read")],
            audience: "https://orders.example".into(),
            proof: None,
            seq: Seq(50),
            until: Time::from_secs(NOW + 890),
            task: name::<TaskId>("nightly-1"),
            epoch: EPOCH,
            fresh: Staleness(Duration::from_secs(5)),
            status: None,
            template: Vec::new(),
        }
    }

    pub(crate) fn token(claims: &Claims) -> String {
        payload(&claims.encode())
    }

    /// A well-signed token with any payload.
    pub(crate) fn payload(json: &str) -> String {
        by(&key(), json)
    }

    /// A token that another key signed.
    pub(crate) fn signed(key: &SigningKey, claims: &Claims) -> String {
        by(key, &claims.encode())
    }

    fn by(key: &SigningKey, json: &str) -> String {
        encode(ACCESS_TOKEN, &kid(key), json, |bytes| key.sign(bytes).to_bytes())
    }

    /// A well-signed token with any header.
    pub(crate) fn header(json: &str) -> String {
        use data_encoding::BASE64URL_NOPAD as B64;
        let signed =
            format!("{}.{}", B64.encode(json.as_bytes()), B64.encode(claims().encode().as_bytes()));
        let signature = key().sign(signed.as_bytes()).to_bytes();
        format!("{signed}.{}", B64.encode(&signature))
    }

    /// The usual payload with a piece of text replaced; the piece must be there.
    pub(crate) fn forged(from: &str, to: &str) -> String {
        let json = claims().encode();
        assert!(json.contains(from), "{from}");
        payload(&json.replacen(from, to, 1))
    }
}
