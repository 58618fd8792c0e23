//! The addresses of a cluster's replicas, as one setting.
//!
//! All replicas are started with the same list, in the order of their numbers, this one's own
//! included: so it can be copied from host to host, and a replica that was given another's place
//! finds out. Names stay names; they are looked up whenever a connection is made.

use std::net::SocketAddr;

/// Parses `host:port,host:port,…`; nothing is no list.
///
/// # Errors
/// What is wrong with it.
pub fn parse_peers(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let peers: Vec<String> = text.split(',').map(|peer| peer.trim().to_owned()).collect();
    if let Some(wrong) = peers.iter().find(|peer| split(peer).is_none()) {
        return Err(format!("`{wrong}` is not host:port, as in replica-0.example:7400"));
    }
    for (index, peer) in peers.iter().enumerate() {
        if peers[..index].contains(peer) {
            return Err(format!("{peer} is named twice"));
        }
    }
    match peers.len() {
        1 | 3 | 5 => Ok(peers),
        count => Err(format!("names {count} replicas; a cluster has 1, 3 or 5")),
    }
}

/// Host and port; an IPv6 address stands in brackets.
fn split(peer: &str) -> Option<(&str, u16)> {
    let (host, port) = peer.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let is_address = peer.parse::<SocketAddr>().is_ok();
    let is_name = !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    (is_address || is_name).then_some((host, port))
}

/// Whether a replica that listens on `listen` can be the one that others dial at `own`: the ports
/// are the same, and so are the addresses where both say one. A forwarded port is not foreseen.
#[must_use]
pub fn is_own(own: &str, listen: SocketAddr) -> bool {
    let Some((_, port)) = split(own) else { return false };
    let address = own.parse::<SocketAddr>().map_or(listen.ip(), |own| own.ip());
    port == listen.port() && (listen.ip().is_unspecified() || address == listen.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_checked_member_by_member() {
        assert_eq!(parse_peers("").unwrap(), Vec::<String>::new());
        assert_eq!(parse_peers("a:1, b-2.example:2,[::1]:3").unwrap().len(), 3);
        for (wrong, why) in [
            ("a:1,b:2", "2 replicas"),
            ("a:1,b:2,a:1", "a:1 is named twice"),
            ("a:1,b:2,c", "`c` is not"),
            ("a:0", "`a:0` is not"),
            (":7", "`:7` is not"),
            ("::1:7", "`::1:7` is not"),
            ("a:1,,b:2", "`` is not"),
            ("a b:1", "`a b:1` is not"),
        ] {
            let error = parse_peers(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_address_is_ones_own_by_its_port_and_as_far_as_known_its_host() {
        let at = |listen: &str, own| is_own(own, listen.parse().unwrap());
        assert!(at("10.0.0.1:7400", "10.0.0.1:7400"));
        assert!(at("10.0.0.1:7400", "db-1:7400"), "names are not looked up for this");
        assert!(at("0.0.0.0:7400", "10.0.0.1:7400") && at("[::]:7400", "10.0.0.1:7400"));
        assert!(!at("10.0.0.1:7400", "10.0.0.2:7400"));
        assert!(!at("0.0.0.0:7400", "db-1:7401"));
    }
}
