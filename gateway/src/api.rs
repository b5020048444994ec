//! The HTTP API, by `/api/v1/`: the tree as pages and programs use it, in JSON, with files in and out.
//!
//! * `serve`: which request is answered by what; `asked`: what all of them have in common; `routes`, which is pure, says which there
//!   are. `query`, pure, too: what stands behind the `?`.
//! * `entries`: what is in a folder, and what is known of each (`entry`). `content`: files out and in. `change`: folders made, and
//!   whatever deleted, moved and copied. `trash`: what was deleted and can be had back. `uploads`: files that come in parts, `kept` until they are whole.
//! * `archive`: folders as `zip` files. `search`: names. `links`: what is shared. `tickets`: by what a browser fetches what it sends no header for.
//!   `status`: how it all is, with `figures`. `shares`: what nobody may have all of.
//! * `admin`: what administrators do: `accounts`, options, the `volumes` of the cluster, a `check`.

mod accounts;
mod admin;
mod archive;
mod asked;
mod change;
mod check;
mod content;
#[cfg(any(test, feature = "decoders"))]
pub(crate) mod decoders;
mod door;
mod entries;
mod entry;
mod figures;
mod kept;
mod links;
mod query;
mod routes;
mod search;
mod serve;
mod shares;
mod status;
mod tickets;
mod trash;
mod uploads;
mod volumes;
mod zip;

pub(crate) use serve::{About, routes};
