//! A link that can be cut: what connects here is passed on to a daemon, until it is not.
//!
//! Each [`Link`] listens on a port of its own on loopback. While it is cut nobody gets through, and connections that
//! there were break, as when a cable is pulled at a switch that says so.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;

/// A way to one daemon.
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    to: String,
    cut: AtomicBool,
    ended: AtomicBool,
    /// Both ends of every connection that was passed on.
    passed: Mutex<Vec<TcpStream>>,
}

impl Link {
    /// A way to the daemon at this `HOST:PORT`.
    pub fn to(daemon: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            to: daemon.to_owned(),
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            passed: Mutex::default(),
        });
        let serving = shared.clone();
        std::thread::spawn(move || serving.serve(&listener));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Breaks all connections, and lets none through from now on.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.break_all();
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        // It may wait for a connection: this one is its last.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, listener: &TcpListener) {
        for connection in listener.incoming() {
            if self.ended.load(Ordering::SeqCst) {
                return;
            }
            // Whoever is refused sees the connection closed, and tries again.
            let passed = connection.and_then(|connection| self.pass_on(connection));
            if let Err(error) = passed {
                eprintln!("a connection to {} is not passed on: {error}", self.to);
            }
        }
    }

    fn pass_on(&self, connection: TcpStream) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Ok(daemon) = TcpStream::connect(&self.to) else { return Ok(()) };
        for stream in [&connection, &daemon] {
            stream.set_nodelay(true)?;
        }
        {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            passed.push(connection.try_clone()?);
            passed.push(daemon.try_clone()?);
        }
        if self.cut.load(Ordering::SeqCst) {
            self.break_all();
        }
        pump(connection.try_clone()?, daemon.try_clone()?);
        pump(daemon, connection);
        Ok(())
    }

    fn break_all(&self) {
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in passed.drain(..) {
            // One that has ended already cannot be shut down.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Passes on all that comes, then the end.
fn pump(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        // However it ends, the other side has to hear of it.
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_is_sent_arrives_until_the_link_is_cut_and_again_once_it_is_mended() {
        let daemon = TcpListener::bind("127.0.0.1:0").unwrap();
        let link = Link::to(&daemon.local_addr().unwrap().to_string()).unwrap();
        for _ in 0..2 {
            let mut near = TcpStream::connect(link.address()).unwrap();
            let (mut far, _) = daemon.accept().unwrap();
            near.write_all(b"there").unwrap();
            let mut bytes = [0; 5];
            far.read_exact(&mut bytes).unwrap();
            far.write_all(b"back!").unwrap();
            near.read_exact(&mut bytes).unwrap();
            assert_eq!(&bytes, b"back!");
            link.cut();
            assert_eq!(near.read(&mut bytes).unwrap_or(0), 0);
            assert_eq!(far.read(&mut bytes).unwrap_or(0), 0);
            let mut refused = TcpStream::connect(link.address()).unwrap();
            assert_eq!(refused.read(&mut bytes).unwrap_or(0), 0);
            link.mend();
        }
    }
}
