//! The simulation: the real proxy, its repair, and the real disks in one thread, where time, network and storage
//! follow from a seed.
//!
//! * [`ambient`]: time and randomness that the product asks the system for; [`dice`]: all other chance.
//! * [`storage`]: a filesystem in memory, and what crashes and bad devices do to it; [`machine`]: a real disk over it.
//! * [`ground`]: machines on hosts in racks, and the map of them; [`wire`]: the way of a client to a slot.
//! * [`model`]: what must be true of every blob, and [`witness`], of every step of repair; [`trace`]: what happened, as a
//!   hash.
//! * [`site`]: what goes wrong with machines, and a map that gets smaller and larger; [`leader`]: who has the volume, or takes itself for it.
//! * [`world`]: blobs, step by step; [`journal`]: metadata, in the same way.
//!
//! Nothing here waits for real time, and nothing of the product knows that it is simulated. The same seed gives the
//! same trace, whatever the machine is busy with (`tests/seeds.rs`).

pub mod ambient;
pub mod dice;
pub mod ground;
pub mod journal;
pub mod leader;
pub mod machine;
pub mod model;
pub mod site;
pub mod storage;
pub mod trace;
pub mod wire;
pub mod witness;
pub mod world;
