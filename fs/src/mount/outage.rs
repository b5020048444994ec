//! Disks that are away, in words: which, why, and what works without them.

use std::collections::BTreeSet;
use std::fmt;

use proto::scheme::Scheme;
use proxy::SlotStatus;

/// What the disks that are not up take away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    up: usize,
    all: usize,
    effect: &'static str,
    /// Number, place and state of each that is not up.
    disks: Vec<(usize, String, String)>,
}

impl Outage {
    /// Of these slots, for a volume of this scheme. `cut_off`: nothing can be stored on those that
    /// are left. `None`: all are up.
    pub fn of(slots: &[SlotStatus], scheme: Scheme, cut_off: bool) -> Option<Self> {
        let away: Vec<&SlotStatus> = slots.iter().filter(|slot| slot.state != "up").collect();
        if away.is_empty() {
            return None;
        }
        let unread = away.iter().filter(|slot| !slot.state.starts_with("read-only"));
        let domains: BTreeSet<&str> = unread.map(|slot| slot.domain.as_str()).collect();
        let lost = domains.len();
        let effect = match (lost <= scheme.parity_parts(), cut_off) {
            _ if away.len() == slots.len() && lost > 0 => {
                "nothing can be read or stored until they are back"
            }
            (true, false) => "reads and writes go on",
            (true, true) => "everything can be read, and nothing can be stored until more are back",
            (false, false) => {
                "what has too many parts on the others cannot be read until more are back; writes go on"
            }
            (false, true) => {
                "what has too many parts on the others cannot be read, and nothing can be stored, until \
                 more are back"
            }
        };
        let disk = |slot: &&SlotStatus| (slot.index, slot.place.clone(), slot.state.clone());
        let disks = away.iter().map(disk).collect();
        Some(Self { up: slots.len() - away.len(), all: slots.len(), effect, disks })
    }

    /// How many disks are not up.
    pub fn away(&self) -> usize {
        self.disks.len()
    }
}

/// A line of what it means, and one for each disk.
impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} disks are up: {}", self.up, self.all, self.effect)?;
        for (index, place, state) in &self.disks {
            write!(f, "\n  disk {index} at {place}: {state}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(scheme: &str, domains: &[&str], states: &[&str], cut_off: bool) -> String {
        let slot = |(index, (domain, state)): (usize, (&&str, &&str))| SlotStatus {
            index,
            disk: String::new(),
            place: format!("/srv/{index}"),
            domain: (*domain).to_owned(),
            state: (*state).to_owned(),
            fill: String::new(),
            capacity: 0,
            used: 0,
        };
        let slots: Vec<_> = domains.iter().zip(states).enumerate().map(slot).collect();
        let outage = Outage::of(&slots, scheme.parse().unwrap(), cut_off);
        outage.map(|outage| outage.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_works_is_said_with_what_is_away_and_why() {
        let all = ["a", "b", "c", "d", "e", "f"];
        assert_eq!(of("ec(4,2)", &all, &["up"; 6], false), "");
        let text = of("ec(4,2)", &all, &["up", "up", "up", "up", "out: gone", "up"], false);
        assert!(text.starts_with("5 of 6 disks are up: reads and writes go on"), "{text}");
        assert!(text.ends_with("\n  disk 4 at /srv/4: out: gone"), "{text}");
        let three = ["out: gone", "out: gone", "up", "up", "out: gone", "up"];
        assert!(of("ec(4,2)", &all, &three, true).contains("cannot be read, and nothing"));
        let together = ["a", "a", "c", "d", "a", "f"];
        assert!(of("ec(4,2)", &together, &three, false).contains("go on"));
        let read_only = ["read-only: x"; 6];
        assert!(
            of("ec(4,2)", &all, &read_only, true).contains("everything can be read, and nothing")
        );
        let text = of("ec(4,2)", &all, &["refused"; 6], true);
        assert!(text.starts_with("0 of 6 disks are up: nothing can be read"), "{text}");
    }
}
