//! Signed checkpoints: where a journal stood, so that nobody can take it back unnoticed.

use ed25519_dalek::{Signer, SigningKey};

use crate::ids::{Epoch, Hash, JournalId, Seq};
use crate::keys::Keys;
use crate::time::Time;

/// What a checkpoint key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which journal.
    pub journal: JournalId,
    /// Which life of it.
    pub epoch: Epoch,
    /// Its head.
    pub seq: Seq,
    /// The end of the second in which it was signed, so that a reader's time never runs late.
    pub at: Time,
    /// The Merkle root over all entries up to `seq`.
    pub root: Hash,
}

/// A checkpoint and its signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signed {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// Ed25519 over [`Checkpoint::message`].
    pub signature: [u8; 64],
}

impl Checkpoint {
    /// The signed bytes: a domain tag, then every field with its length as 8 bytes, numbers big-endian, `at` in milliseconds.
    #[must_use]
    pub fn message(&self) -> Vec<u8> {
        let mut bytes = b"protem-checkpoint-v1".to_vec();
        let numbers = [self.epoch.0, self.seq.0, self.at.as_millis()].map(u64::to_be_bytes);
        let [epoch, seq, at] = &numbers;
        let fields: [&[u8]; 5] = [&self.journal.0, epoch, seq, at, &self.root.0];
        for field in fields {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }

    /// Signs it.
    #[must_use]
    pub fn sign(self, key: &SigningKey) -> Signed {
        Signed { checkpoint: self, signature: key.sign(&self.message()).to_bytes() }
    }
}

impl Signed {
    /// Whether one of the checkpoint keys signed it.
    #[must_use]
    pub fn verify(&self, keys: &Keys) -> bool {
        keys.verify_any(&self.checkpoint.message(), &self.signature)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_signed() {
        let key = SigningKey::from_bytes(&[3; 32]);
        let keys = Keys::of(&[key.verifying_key().to_bytes()]).unwrap();
        let good = Checkpoint {
            journal: JournalId([1; 16]),
            epoch: Epoch(2),
            seq: Seq(3),
            at: Time::from_secs(4),
            root: Hash([5; 32]),
        };
        let signed = good.sign(&key);
        assert!(signed.verify(&keys));
        for checkpoint in [
            Checkpoint { journal: JournalId([0; 16]), ..good },
            Checkpoint { epoch: Epoch(3), ..good },
            Checkpoint { seq: Seq(2), ..good },
            Checkpoint { at: Time::from_secs(5), ..good },
            Checkpoint { root: Hash([6; 32]), ..good },
        ] {
            assert!(!Signed { checkpoint, ..signed }.verify(&keys), "{checkpoint:?}");
        }
        assert!(!signed.verify(&Keys::default()));
    }
}
