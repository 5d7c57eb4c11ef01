//! The kernel's tables of TCP sockets.

/// The state `TCP_LISTEN` (`include/net/tcp_states.h`) as the tables have it.
const LISTEN: &str = "0A";

/// Whether a table such as `/proc/net/tcp` (`Documentation/networking/proc_net_tcp.rst`) has a socket that listens on
/// `port`: after the number of the line come the local and the remote address, each ending in `:PORT` in hex, and the
/// state.
#[must_use]
pub(crate) fn is_listening(table: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    table.lines().skip(1).any(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&port)) && words.nth(1) == Some(LISTEN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_on_the_port_counts() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n\
            \x20  0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n\
            \x20  1: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0\n";
        assert!(is_listening(table, 8080));
        assert!(!is_listening(table, 8081), "it is connected");
        assert!(!is_listening(table, 80) && !is_listening("", 8080));
    }

    #[test]
    fn tables_of_this_host_are_read() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        assert!(is_listening(&table, port), "{port} {table}");
    }
}
