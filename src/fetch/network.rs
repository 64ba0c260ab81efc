//! Networks, and which addresses are nobody's on the public Internet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::Deserialize;

/// A network in CIDR notation: `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

impl Network {
    /// Whether the address is in it. An IPv4 address inside an IPv6 one is not taken for IPv4.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                mask(u128::from(first.to_bits()), 32, self.bits)
                    == mask(u128::from(address.to_bits()), 32, self.bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                mask(first.to_bits(), 128, self.bits) == mask(address.to_bits(), 128, self.bits)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The leading `bits` of an address that is `width` wide.
fn mask(address: u128, width: u32, bits: u32) -> u128 {
    address.checked_shr(width.saturating_sub(bits)).unwrap_or(0)
}

/// What is wrong with a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no network; write an address and how many of its bits count, the others zero, such as `10.0.0.0/8`"
)]
pub struct NoNetwork(String);

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let bad = || NoNetwork(text.to_owned());
        let (first, bits) = text.split_once('/').ok_or_else(bad)?;
        let first: IpAddr = first.parse().map_err(|_| bad())?;
        if bits.is_empty() || !bits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        let (width, address) = match first {
            IpAddr::V4(address) => (32, u128::from(address.to_bits())),
            IpAddr::V6(address) => (128, address.to_bits()),
        };
        let rest = mask(address, width, bits).checked_shl(width.saturating_sub(bits)).unwrap_or(0);
        if bits > width || rest != address {
            return Err(bad());
        }
        Ok(Self { first, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an address is, when it is not a server's on the public Internet (RFC 6890 and its registries); none for one that is.
#[must_use]
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    let kind = match (a, b, c) {
        (0, _, _) => "unspecified",
        (127, _, _) => "loopback",
        (10, _, _) | (172, 16..=31, _) | (192, 168, _) => "private",
        (100, 64..=127, _) => "carrier-grade NAT",
        // The metadata services of most clouds are here.
        (169, 254, _) => "link-local",
        // The platform's own service for virtual machines, on a public address.
        (168, 63, 129) => "metadata",
        (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) => "reserved",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "documentation",
        (224..=239, _, _) => "multicast",
        (240..=255, _, _) => "reserved",
        _ => return None,
    };
    Some(kind)
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let [a, b, ..] = address.segments();
    if address.is_unspecified() {
        return Some("unspecified");
    }
    if address.is_loopback() {
        return Some("loopback");
    }
    if address.to_ipv4_mapped().is_some() {
        return Some("IPv4-mapped");
    }
    let kind = match (a, b) {
        (0xfc00..=0xfdff, _) => "unique local",
        (0xfe80..=0xfebf, _) => "link-local",
        (0xff00..=0xffff, _) => "multicast",
        (0x2001, 0x0db8) | (0x3fff, 0x0000..=0x0fff) => "documentation",
        // Teredo, ORCHID and their kin; 6to4 carries an IPv4 address that nobody would look at.
        (0x2001, 0x0000..=0x01ff) | (0x2002, _) => "reserved",
        // All that is given out so far; NAT64 and what comes later must be listed.
        (0x2000..=0x3fff, _) => return None,
        _ => "reserved",
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_strict() {
        for good in ["10.0.0.0/8", "127.0.0.1/32", "0.0.0.0/0", "::/0", "fd00::/8", "::1/128"] {
            assert_eq!(good.parse::<Network>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/+8",
            "10.0.0.0/ 8",
            " 10.0.0.0/8",
            "fd00::/129",
            "fd00::1/8",
            "localhost/8",
            "10.0.0.0/8/8",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_network_holds_its_own() {
        let check = |network: &str, address: &str, expect| {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.holds(address.parse().unwrap()), expect, "{network} {address}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.0", false);
        check("127.0.0.1/32", "127.0.0.2", false);
        check("0.0.0.0/0", "8.8.8.8", true);
        check("0.0.0.0/0", "::1", false);
        check("10.0.0.0/8", "::ffff:10.0.0.1", false);
        check("fd00::/8", "fdff::1", true);
        check("fd00::/8", "fe80::1", false);
    }

    #[test]
    fn only_the_public_internet_is_public() {
        for public in ["8.8.8.8", "140.82.121.5", "172.15.0.1", "100.63.0.1", "2606:4700::1111"] {
            assert_eq!(special(public.parse().unwrap()), None, "{public}");
        }
        for other in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "168.63.129.16",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.192",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2001::1",
            "4000::1",
        ] {
            assert!(special(other.parse().unwrap()).is_some(), "{other}");
        }
    }
}
