//! The slots as clients of theirs see them: one of them ([`slot_client`]), and all of them judged together
//! ([`health`], pure).

pub(crate) mod health;
pub(crate) mod slot_client;
