//! The door of the daemon: [`acceptor`] takes connections, [`link`] is one of them, [`clients`] knows whose is the
//! newest, [`asked`] what is to be done; [`service`] tells by gRPC how the daemon is.

pub(crate) mod acceptor;
pub(crate) mod asked;
pub mod clients;
pub(crate) mod link;
pub mod service;
