//! Metad's side: a volume that is led here, worked on from other machines.
//!
//! [`Metad`] takes connections; `door` is one of them, `led` knows the volumes, `sessions` knows who works here, which
//! connection of each is the newest, and when one is over; `work` is what such a session works by, with what it was answered
//! (`window`), and who hears what it leaves ([`Keeper`]); `asked` does what is asked, each op as a call of [`crate::MetaStore`].

mod asked;
mod door;
mod led;
mod metad;
mod sessions;
mod window;
mod work;

pub use metad::Metad;
pub use work::Keeper;
