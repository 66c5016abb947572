//! Asks the kernel how long a network card waits before it interrupts: generic netlink, family
//! `ethtool` (Documentation/networking/ethtool-netlink.rst, Linux 5.7). Needs no privilege.
//!
//! ```text
//!   ──▶ CTRL_CMD_GETFAMILY "ethtool"        ◀── the family's number
//!   ──▶ ETHTOOL_MSG_COALESCE_GET "eth0"     ◀── what the driver knows, or an errno
//! ```
//!
//! Messages are built and read by pure functions; [`coalescing`] is the thin rest.

use std::io;

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use super::tuning::Coalescing;

/// `linux/netlink.h`, `linux/genetlink.h`, `linux/ethtool_netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const ETHTOOL_MSG_COALESCE_GET: u8 = 19;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_COALESCE_HEADER: u16 = 1;
const ETHTOOL_A_COALESCE_RX_USECS: u16 = 2;
const ETHTOOL_A_COALESCE_RX_MAX_FRAMES: u16 = 3;
const ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX: u16 = 11;
const NLA_F_NESTED: u16 = 1 << 15;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Headers of a message: netlink's, then generic netlink's; and of an attribute.
const NETLINK_BYTES: usize = 16;
const HEADER_BYTES: usize = NETLINK_BYTES + 4;
const ATTRIBUTE_BYTES: usize = 4;
const ANSWER_BYTES_MAX: usize = 32 << 10;
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// What the driver of `interface` says.
///
/// # Errors
///
/// The kernel's: a driver that can not say it, a kernel without the interface.
pub(super) fn coalescing(interface: &str) -> io::Result<Coalescing> {
    let family = AddressFamily::NETLINK;
    let socket = socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(GENERIC))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    let ask = |message: &[u8]| -> io::Result<Vec<u8>> {
        send(&socket, message, SendFlags::empty())?;
        let mut answer = vec![0; ANSWER_BYTES_MAX];
        let (bytes, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
        answer.truncate(bytes);
        Ok(answer)
    };
    let name = attribute(CTRL_ATTR_FAMILY_NAME, b"ethtool\0");
    let answer = ask(&message(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name))?;
    let family = family_of(&answer)?;
    let mut name = interface.as_bytes().to_vec();
    name.push(0);
    let name = attribute(ETHTOOL_A_HEADER_DEV_NAME, &name);
    let header = attribute(ETHTOOL_A_COALESCE_HEADER | NLA_F_NESTED, &name);
    let answer = ask(&message(family, ETHTOOL_MSG_COALESCE_GET, &header))?;
    coalescing_of(&answer)
}

fn message(family: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let bytes = u32::try_from(HEADER_BYTES + attributes.len()).expect("a name and headers");
    let mut message = Vec::with_capacity(HEADER_BYTES + attributes.len());
    message.extend_from_slice(&bytes.to_ne_bytes());
    message.extend_from_slice(&family.to_ne_bytes());
    message.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    // Sequence and port: one question at a time, and the kernel fills in the port.
    message.extend_from_slice(&[0; 8]);
    // Version 1, and two bytes that are reserved.
    message.extend_from_slice(&[command, 1, 0, 0]);
    message.extend_from_slice(attributes);
    message
}

/// Length, type and value, padded to a multiple of four bytes.
fn attribute(number: u16, value: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(ATTRIBUTE_BYTES + value.len()).expect("names are short");
    let mut attribute = Vec::new();
    attribute.extend_from_slice(&bytes.to_ne_bytes());
    attribute.extend_from_slice(&number.to_ne_bytes());
    attribute.extend_from_slice(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

fn family_of(answer: &[u8]) -> io::Result<u16> {
    let mut attributes = attributes_of(payload_of(answer)?);
    let value = attributes.find(|(number, _)| *number == CTRL_ATTR_FAMILY_ID);
    let number = value.and_then(|(_, value)| value.first_chunk().map(|b| u16::from_ne_bytes(*b)));
    number.ok_or_else(malformed)
}

fn coalescing_of(answer: &[u8]) -> io::Result<Coalescing> {
    let mut found = Coalescing::default();
    for (number, value) in attributes_of(payload_of(answer)?) {
        let word = value.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes));
        match number {
            ETHTOOL_A_COALESCE_RX_USECS => found.rx_usecs = word,
            ETHTOOL_A_COALESCE_RX_MAX_FRAMES => found.rx_frames = word,
            ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX => {
                found.is_adaptive = value.first().is_some_and(|&byte| byte != 0);
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The attributes of an answer, behind its headers.
fn payload_of(answer: &[u8]) -> io::Result<&[u8]> {
    let header = answer.first_chunk::<NETLINK_BYTES>().ok_or_else(malformed)?;
    let word = |at: usize| {
        u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let bytes = usize::try_from(word(0)).map_err(|_| malformed())?;
    let whole = answer.get(..bytes).ok_or_else(malformed)?;
    if u16::from_ne_bytes([header[4], header[5]]) == NLMSG_ERROR {
        let errno = whole.get(NETLINK_BYTES..).and_then(|rest| rest.first_chunk());
        let errno = errno.map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        // Negative, and 0 would be a mere acknowledgement.
        return Err(match errno.checked_neg() {
            Some(errno) if errno > 0 => io::Error::from_raw_os_error(errno),
            _ => malformed(),
        });
    }
    whole.get(HEADER_BYTES..).ok_or_else(malformed)
}

/// Number and value of each attribute; ends where they make no sense.
fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<ATTRIBUTE_BYTES>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let number = u16::from_ne_bytes([header[2], header[3]]) & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_BYTES..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((number, value))
    })
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(attributes: &[u8]) -> Vec<u8> {
        message(21, 20, attributes)
    }

    #[test]
    fn answer_of_a_driver_is_read() {
        let attributes = [
            attribute(ETHTOOL_A_COALESCE_HEADER | NLA_F_NESTED, &attribute(2, b"eth0\0")),
            attribute(ETHTOOL_A_COALESCE_RX_USECS, &30_u32.to_ne_bytes()),
            attribute(ETHTOOL_A_COALESCE_RX_MAX_FRAMES, &64_u32.to_ne_bytes()),
            attribute(ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX, &[1]),
        ];
        let found = coalescing_of(&answer(&attributes.concat())).expect("an answer");
        let expected = Coalescing { rx_usecs: Some(30), rx_frames: Some(64), is_adaptive: true };
        assert_eq!(found, expected);
        assert_eq!(coalescing_of(&answer(&[])).expect("an answer"), Coalescing::default());
    }

    #[test]
    fn refusal_is_the_kernels() {
        let mut refusal = answer(&[0; 16]);
        refusal[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        refusal[16..20].copy_from_slice(&(-95_i32).to_ne_bytes());
        let error = coalescing_of(&refusal).expect_err("it was refused");
        assert_eq!(error.raw_os_error(), Some(95), "EOPNOTSUPP");
    }

    #[test]
    fn cut_and_random_answers_are_errors_or_nothing() {
        let attributes = [
            attribute(CTRL_ATTR_FAMILY_ID, &21_u16.to_ne_bytes()),
            attribute(ETHTOOL_A_COALESCE_RX_MAX_FRAMES, &64_u32.to_ne_bytes()),
        ];
        let whole = answer(&attributes.concat());
        assert_eq!(family_of(&whole).expect("an answer"), 21);
        for length in 0..whole.len() {
            assert!(family_of(&whole[..length]).is_err(), "{length} bytes");
        }
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(0..bytes.len());
                bytes[at] = random.u8(..);
            }
            // It ends, and does not panic.
            let _ = (family_of(&bytes), coalescing_of(&bytes));
        }
    }

    #[test]
    fn interface_that_is_not_there_is_an_error() {
        assert!(coalescing("no such card").is_err());
    }
}
