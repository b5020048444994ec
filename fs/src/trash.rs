//! The trash as people see it, through doors and commands: what was deleted, where it was, and how it is put back.
//!
//! Metadata know of what is in the trash which directory it was in; what that is called, and whether whoever looks sees
//! it at all, is found here (`look`), by going up from there. To put something back (`back`), the folders that it was in have
//! to be there: those that are in the trash themselves come back before it. `orders` is how commands have it done.
//!
//! A folder that was empty when it was deleted comes back with what had been deleted from it just before, by the same user, which
//! is what `rm -r` leaves; one that was deleted with something in it comes back as it was.

pub(crate) mod back;
pub(crate) mod look;
pub(crate) mod orders;
