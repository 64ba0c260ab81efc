//! What was done with a grant, as gateways say, beside what it allows.

use protem_proto::wire::v1;
use protem_verify::time::Time;

use crate::engine::broker::Broker;
use crate::journal::records::GrantRecord;
use crate::journal::usage::{How, Use};
use crate::serve::show;
use crate::serve::status::Problem;
use crate::serve::who;

/// A grant in full. Whether the caller may see it was decided before.
///
/// # Errors
/// When the store cannot be asked.
pub async fn grant(broker: &Broker, record: &GrantRecord) -> Result<v1::GetGrantResponse, Problem> {
    let id = record.id;
    let uses = who::read(broker, move |reader| reader.usage_of_grant(&id)).await?;
    let mut grant = show::grant(record);
    grant.last_used = last_used(&uses);
    let usage = usage(&record.ruling.terms.operations, &uses);
    Ok(v1::GetGrantResponse { grant: Some(grant), usage: Some(usage) })
}

/// Grants of a page, each with when it was last used.
///
/// # Errors
/// When the store cannot be asked.
pub async fn listed(broker: &Broker, grants: Vec<v1::Grant>) -> Result<Vec<v1::Grant>, Problem> {
    let read = move |reader: &dyn crate::journal::reader::Reader| {
        let mut grants = grants;
        for grant in &mut grants {
            if let Ok(id) = grant.id.parse() {
                grant.last_used = last_used(&reader.usage_of_grant(&id)?);
            }
        }
        Ok(grants)
    };
    who::read(broker, read).await
}

fn last_used(uses: &[Use]) -> Option<prost_types::Timestamp> {
    let used = uses.iter().filter(|one| matches!(one.how, How::Allowed(_)));
    used.map(|one| one.last).max().map(show::time)
}

/// `granted`: each operation behind its scope.
fn usage(granted: &[std::sync::Arc<str>], uses: &[Use]) -> v1::GrantUsage {
    let (mut used, mut refused): (Vec<_>, Vec<_>) =
        uses.iter().partition(|one| matches!(one.how, How::Allowed(_)));
    for all in [&mut used, &mut refused] {
        all.sort_by_key(|one| std::cmp::Reverse(one.count));
        all.truncate(SHOWN_MAX);
    }
    // An operation of two scopes was used, by whichever of them.
    let never = granted.iter().filter(|granted| {
        let operation = granted.split_once(' ').map_or("", |(_, operation)| operation);
        !uses.iter().any(|one| one.operation == operation && matches!(one.how, How::Allowed(_)))
    });
    v1::GrantUsage {
        used: used.into_iter().map(shown).collect(),
        never_used: never.take(SHOWN_MAX).map(ToString::to_string).collect(),
        refused: refused.into_iter().map(shown).collect(),
    }
}

fn shown(one: &Use) -> v1::OperationUse {
    let time = |at: Time| Some(show::time(at));
    v1::OperationUse {
        operation: one.operation.clone(),
        scope: one.how.scope().to_owned(),
        refusal: one.how.refusal().to_owned(),
        count: one.count,
        first: time(one.first),
        last: time(one.last),
    }
}

/// Operations that one answer shows of each kind: those that were done most often.
const SHOWN_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_granted_and_never_used_is_told() {
        let used = |operation: &str, how: How, count| Use {
            operation: operation.to_owned(),
            how,
            count,
            first: Time::from_secs(1),
            last: Time::from_secs(2),
        };
        let allowed = || How::Allowed("s".into());
        let granted = ["s GET /a".into(), "t GET /a".into(), "s GET /b".into(), "s PUT /c".into()];
        let refused = || How::Refused("PT-0410".into());
        let uses = [
            used("GET /a", allowed(), 2),
            used("GET /d", allowed(), 5),
            used("GET /b", refused(), 7),
        ];
        let found = usage(&granted, &uses);
        assert_eq!(found.never_used, ["s GET /b", "s PUT /c"]);
        let names: Vec<_> = found.used.iter().map(|one| (&*one.operation, one.count)).collect();
        assert_eq!(names, [("GET /d", 5), ("GET /a", 2)]);
        assert_eq!((&*found.refused[0].refusal, found.refused[0].count), ("PT-0410", 7));
        assert_eq!(last_used(&uses[2..]), None);
        assert_eq!(last_used(&uses).unwrap().seconds, 2);
    }
}
