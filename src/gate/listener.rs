//! Where a gateway listens: an address, or a Unix socket whose file it makes, guards and removes.

use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener, UnixSocket};

/// A place to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An address.
    Address(SocketAddr),
    /// A socket's file.
    Socket(PathBuf),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("`unix:` is followed by a path".to_owned()),
                false => Ok(Self::Socket(path.into())),
            };
        }
        let address = text.parse().map(Self::Address);
        address.map_err(|_| format!("`{text}` is neither an address nor `unix:` and a path"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "{address}"),
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection, whichever way it came.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// An open door.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a file, which goes when this does.
    Unix(UnixListener, SocketFile),
}

/// The file of a socket, removed with this unless somebody else's has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Listens. A socket's file that nobody listens on any more is replaced; `mode` says who may connect to it.
    ///
    /// # Errors
    /// When the place is taken or cannot be used.
    pub async fn bind(place: &Place, mode: u32) -> io::Result<Self> {
        match place {
            Place::Address(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
            Place::Socket(path) => {
                clear(path).await?;
                let (socket, file) = bound(path, mode)?;
                Ok(Self::Unix(socket.listen(BACKLOG)?, file))
            }
        }
    }

    /// Where it listens: the port that was found, where none was named.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok().map(Place::Address),
            Self::Unix(_, file) => Some(Place::Socket(file.path.clone())),
        }
    }

    /// The next connection.
    ///
    /// # Errors
    /// What the system says.
    pub async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Small answers are not held back for company; a failure here costs only that.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Self::Unix(listener, _) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

/// Connections that the kernel holds until they are accepted, as many as the system allows by default.
const BACKLOG: u32 = 4_096;

/// A socket with its file and its mode, that does not listen yet: until it does the kernel refuses whoever connects, so there is
/// no moment in which the umask says who may.
fn bound(path: &Path, mode: u32) -> io::Result<(UnixSocket, SocketFile)> {
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    let file = SocketFile { path: path.into(), inode: fs::symlink_metadata(path)?.ino() };
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok((socket, file))
}

/// Removes a socket's file that a gateway left which was killed; nothing else, and none that is in use.
async fn clear(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !there.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file there is no socket"));
    }
    match tokio::net::UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens there already")),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let same = fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode);
        if same {
            // Who comes next removes what could not be removed here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_addresses_and_sockets() {
        let socket = Place::Socket("/run/protem-gate/gate.sock".into());
        assert_eq!("unix:/run/protem-gate/gate.sock".parse(), Ok(socket.clone()));
        assert_eq!(socket.to_string(), "unix:/run/protem-gate/gate.sock");
        assert!(matches!("127.0.0.1:7431".parse(), Ok(Place::Address(_))));
        for bad in ["", "unix:", "7431", "localhost:1", "/run/gate.sock"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn nobody_connects_before_the_sockets_mode_says_who_may() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.sock");
        let (socket, file) = bound(&path, 0o600).unwrap();
        let early = tokio::net::UnixStream::connect(&path).await.unwrap_err();
        assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let listener = socket.listen(1).unwrap();
        tokio::net::UnixStream::connect(&path).await.unwrap();
        drop((listener, file));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_or_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate.sock");
        let place = Place::Socket(path.clone());
        let first = Listener::bind(&place, 0o660).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let error = Listener::bind(&place, 0o660).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        // Killed: the file stays, and nobody is behind it.
        let Listener::Unix(listener, file) = first else { panic!("no socket") };
        std::mem::forget(file);
        drop(listener);
        let second = Listener::bind(&place, 0o600).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(second);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        assert!(Listener::bind(&place, 0o660).await.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
