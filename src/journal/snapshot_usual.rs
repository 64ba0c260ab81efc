//! What is usual for an identity, as bytes of a snapshot.

use std::sync::Arc;

use protem_core::usual::{Hour, Known, Usual, Woke};
use protem_proto::wire::journal as wire;
use protem_verify::names::{IdentityName, Malformed};

use crate::journal::decode::name;
use crate::journal::snapshot::gone;

pub(in crate::journal) fn write((identity, it): &(IdentityName, Arc<Usual>)) -> wire::SnapUsual {
    let known = |it: &Known| wire::SnapKnown {
        resource: it.resource.to_string(),
        scope: it.scope.to_string(),
        last: it.last.0,
    };
    wire::SnapUsual {
        identity: identity.to_string(),
        last: it.last.0,
        woke: it.woke.map_or(0, |woke| woke.at.0),
        silent: it.woke.map_or(0, |woke| woke.silent),
        since: it.since.0,
        grants: it.grants,
        days: it.days,
        hours: it.hours.as_flattened().iter().map(|hour| hour.0).collect(),
        busiest: it.busiest.to_vec(),
        this_hour: it.this_hour,
        known: it.known.iter().map(known).collect(),
    }
}

pub(in crate::journal) fn read(
    it: &wire::SnapUsual,
) -> Result<(IdentityName, Arc<Usual>), Malformed> {
    let known = |it: &wire::SnapKnown| {
        Ok(Known { resource: name(&it.resource)?, scope: name(&it.scope)?, last: Hour(it.last) })
    };
    let known: Arc<[Known]> = it.known.iter().map(known).collect::<Result<_, _>>()?;
    let (hours, rest) = it.hours.as_chunks();
    let hours = hours.iter().map(|[last, before]| [Hour(*last), Hour(*before)]);
    let hours: Vec<[Hour; 2]> = hours.filter(|_| rest.is_empty()).collect();
    let usual = Usual {
        last: Hour(it.last),
        woke: (it.woke > 0).then_some(Woke { at: Hour(it.woke), silent: it.silent }),
        since: Hour(it.since),
        grants: it.grants,
        days: it.days,
        hours: hours.try_into().map_err(|_| gone("hours"))?,
        busiest: it.busiest.as_slice().try_into().map_err(|_| gone("busiest"))?,
        this_hour: it.this_hour,
        known: Some(known).filter(|known| known.is_sorted()).ok_or(gone("known"))?,
    };
    Ok((name(&it.identity)?, Arc::new(usual)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_is_read() {
        let known = |scope: &str| Known {
            resource: "orders-api".try_into().unwrap(),
            scope: scope.try_into().unwrap(),
            last: Hour(9),
        };
        let usual = Usual {
            last: Hour(9),
            woke: Some(Woke { at: Hour(9), silent: 800 }),
            since: Hour(1),
            grants: 20,
            days: 3,
            hours: [[Hour(9), Hour(1)]; 24],
            busiest: [1, 2, 3, 4, 5, 6, 7, 8],
            this_hour: 4,
            known: [known("a"), known("b")].into(),
        };
        let whole = ("team/a".try_into().unwrap(), Arc::new(usual));
        assert_eq!(read(&write(&whole)).unwrap(), whole);
        let spoilt = |spoil: fn(&mut wire::SnapUsual)| {
            let mut wire = write(&whole);
            spoil(&mut wire);
            read(&wire).unwrap_err().field
        };
        assert_eq!(spoilt(|it| it.hours.truncate(47)), "hours");
        assert_eq!(spoilt(|it| it.hours.truncate(46)), "hours");
        assert_eq!(spoilt(|it| it.busiest.push(9)), "busiest");
        assert_eq!(spoilt(|it| it.known.reverse()), "known");
    }
}
