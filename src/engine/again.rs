//! What a bundle says again of a grant: of its request, and of those who approved it.

use protem_core::request::AccessRequest;
use protem_core::verdict::{Effect, Verdict};
use protem_verify::time::Time;

use crate::journal::records::GrantRecord;
use crate::policy::bundle::Bundle;
use crate::policy::person::Approved;

/// What `bundle` says of `request`, which is the record's own or narrower, on what was recorded of it, on how many live
/// grants its identity holds and what is unusual about their use now. What was granted at once is asked as `issue` alone; of
/// what people approved, each of them is asked about too.
#[must_use]
pub fn again(
    bundle: &Bundle,
    record: &GrantRecord,
    request: &AccessRequest,
    now: Time,
    (active, of_use): (u32, &[String]),
) -> Verdict {
    let counts = (active, record.ruling.effect == Effect::Issue);
    let verdict = bundle.reevaluate(&record.ruling, request, now, counts, of_use);
    let approvals = record.approvals.iter();
    let approved: Vec<Approved<'_>> = approvals
        .map(|one| Approved { by: &one.by, standing: &one.standing, at: one.at })
        .collect();
    bundle.with_approvers(verdict, request, record.behind.as_ref(), &approved)
}
