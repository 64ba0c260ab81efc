//! HTTP/1.1 as bytes: what a test wants to send is sent, whatever a library would think of it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(30);

impl Answer {
    /// The only value of a header.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(of, _)| of == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} comes twice: {self:?}");
        first
    }
}

/// A GET with these headers and a Host.
pub fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> std::io::Result<Answer> {
    let mut ask = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n");
    for (name, value) in headers {
        ask.push_str(&format!("{name}: {value}\r\n"));
    }
    send(address, format!("{ask}\r\n").as_bytes())
}

/// Sends bytes on a connection of its own, and reads one answer.
pub fn send(address: &str, bytes: &[u8]) -> std::io::Result<Answer> {
    send_over(open(address)?, bytes)
}

/// Sends bytes on this connection, and reads one answer.
pub fn send_over(mut line: impl Read + Write, bytes: &[u8]) -> std::io::Result<Answer> {
    line.write_all(bytes)?;
    line.flush()?;
    answer(&mut BufReader::new(line))
}

/// Sends bytes on a connection of its own, and reads every answer until the peer closes it or is silent.
pub fn pipelined(address: &str, bytes: &[u8]) -> Vec<Answer> {
    let mut line = open(address).unwrap();
    line.set_read_timeout(Some(Duration::from_millis(800))).unwrap();
    // Who refuses early may close before it has read all.
    let _ = line.write_all(bytes);
    let mut line = BufReader::new(line);
    std::iter::from_fn(|| answer(&mut line).ok()).collect()
}

/// A connection on which nothing takes forever.
pub fn open(address: &str) -> std::io::Result<TcpStream> {
    let line = TcpStream::connect(address)?;
    line.set_read_timeout(Some(WITHIN))?;
    line.set_write_timeout(Some(WITHIN))?;
    Ok(line)
}

fn answer(line: &mut impl BufRead) -> std::io::Result<Answer> {
    let bad = |why: &str| std::io::Error::other(why.to_owned());
    let head = head(line)?.ok_or_else(|| bad("closed without an answer"))?;
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.lines();
    let status = lines.next().and_then(|first| first.split(' ').nth(1)?.parse().ok());
    let status: u16 = status.ok_or_else(|| bad(&format!("no answer: {text}")))?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers: Vec<_> = lines.filter_map(pair).collect();
    if status < 200 {
        return answer(line);
    }
    let body = body(line, &headers)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, headers, body })
}

/// All bytes up to the empty line; nothing when the peer closed before the first.
pub fn head(line: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if line.read_until(b'\n', &mut head)? == 0 {
            let cut = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return if head.is_empty() { Ok(None) } else { Err(cut) };
        }
    }
    Ok(Some(head))
}

/// The body that these headers announce.
pub fn body(line: &mut impl BufRead, headers: &[(String, String)]) -> std::io::Result<Vec<u8>> {
    let value = |name: &str| {
        headers.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let mut body = Vec::new();
    if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        loop {
            let mut size = String::new();
            line.read_line(&mut size)?;
            let size = u64::from_str_radix(size.trim(), 16).map_err(std::io::Error::other)?;
            line.take(size).read_to_end(&mut body)?;
            line.read_line(&mut String::new())?;
            if size == 0 {
                return Ok(body);
            }
        }
    }
    let length = value("content-length").map_or(Ok(0), |text| text.parse());
    line.take(length.map_err(std::io::Error::other)?).read_to_end(&mut body)?;
    Ok(body)
}
