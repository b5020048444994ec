//! What is asked of slots and what follows from their answers, as machines without I/O or clock: [`put`], [`get`],
//! [`restore`]; [`driver`] does all their waiting, [`notices`] are what they tell repair, and [`safety`] says from the
//! same rules how many losses they survive.

pub(crate) mod driver;
pub(crate) mod get;
#[cfg(test)]
pub(crate) mod machine_tests;
pub(crate) mod notices;
pub(crate) mod put;
pub(crate) mod restore;
pub(crate) mod safety;
#[cfg(test)]
mod subset_tests;
