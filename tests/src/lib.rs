//! The whole system as its user meets it: the real `ashlar` and `storaged` programs, real mounts,
//! real processes that are killed, real files that are damaged.
//!
//! The library is the tool box; `tests/` has one file per promise. Rules of the house:
//! * every wait has a bound, and running into it is a failure that says what was waited for;
//! * everything random comes from a seed that is printed ([`seed::Seed::announced`]);
//! * whatever is started is ended by its pid, also when a test panics;
//! * with `/dev/fuse` there, a mount that does not work is a failure, never a skipped test.

pub mod accounts;
pub mod adversary;
pub mod binaries;
pub mod browser;
pub mod calls;
pub mod checks;
pub mod cluster;
pub mod cold;
pub mod cut;
pub mod described;
pub mod direct;
pub mod door;
pub mod handles;
pub mod hanging;
pub mod load;
pub mod machine;
pub mod mapped;
pub mod metad;
pub mod modules;
pub mod moments;
pub mod page;
pub mod pair;
pub mod process;
pub mod promtool;
pub mod records;
pub mod runs;
pub mod s3;
pub mod seed;
pub mod side;
pub mod site;
pub mod small;
pub mod somebody;
pub mod stored;
pub mod tree;
