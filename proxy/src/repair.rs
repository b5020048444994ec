//! Repair: every blob of a volume gets all its parts where they belong, by itself.
//!
//! Whoever leads a volume runs a [`Healer`] for it. It takes a *census*, which merges the ordered part lists of all
//! slots, and queues what wants mending, fewest spare losses first; what a put or a get notices on its way is queued
//! at once. *Mending* a blob asks the slots anew what they hold, makes what is missing from any k parts, puts it where
//! it belongs, and drops what is superfluous once its home has acknowledged it.
//!
//! | pure | does I/O |
//! |---|---|
//! | `layout`: where parts belong, what is to be done, what may be lost | `census`: asks for the lists |
//! | `merge`: ordered lists to blobs, with bounded memory | `mend`: one blob |
//! | `queue`, `presence`, `pace`: what next, who is there, how fast | `healer`: when all that happens |
//! | | `examine`: how one blob is, for who checks a volume; `examiner`: one after the other, at repair's pace |
//! | `course`, `tally`, `conditions`: what is due, what was counted, what slots say of themselves | |
//! | [`report`]: how safe it all is, in a word and a line | `gauges`: the same for monitoring |
//!
//! Invariants:
//! * No step lowers the spare losses of a blob, whatever of it silent slots have, and whether an answer arrives or not.
//! * A copy is dropped only after the part's home has acknowledged it in the same mend.
//! * What was deleted is not put again ([`crate::proxy::claims`], tombstones).
//! * A blob with fewer than k parts is named, and left as it is.
//! * One blob that cannot be mended keeps no other from it.

mod census;
mod conditions;
mod course;
mod examine;
mod examiner;
mod gauges;
mod healer;
mod layout;
mod mend;
mod merge;
mod pace;
mod presence;
mod queue;
pub mod report;
mod tally;

pub use census::{Ledger, Wanted};
pub use examine::{Examined, Fate};
pub use examiner::{Examiner, Users};
pub use healer::{HealSettings, Healer};
pub use proto::health::Health;
pub use report::Report;
